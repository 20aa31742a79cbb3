"""A page of HTML that stands by itself: no scripts, nothing from other places."""

from __future__ import annotations

from html import escape


def page_html(title: str, body: str, style: str) -> str:
    """A whole document around ``body``.

    Args:
        title: text, which is escaped.
        body, style: markup and style sheet, as they are.
    """
    return (
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        "<meta http-equiv='Content-Security-Policy' "
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"{body}\n</body>\n</html>\n"
    )
