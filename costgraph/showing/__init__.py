"""Printers: text, files, pictures, pages. They compute no cost."""
