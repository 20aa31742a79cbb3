// A field with a list to choose from: typing filters, arrows move, Enter chooses.
function picker(place, { id, label, items, choose, free }) {
  const list = h("ul", { id: `${id}-list`, role: "listbox", "aria-label": label, hidden: true });
  const field = h("input", {
    id, type: "text", role: "combobox", "aria-expanded": "false", "aria-controls": `${id}-list`, "aria-autocomplete": "list",
    "aria-label": label, placeholder: label, spellcheck: "false", autocomplete: "off",
  });
  const nothing = h("span", { class: "hint", role: "status" });
  let found = [], at = -1;
  const close = () => { list.hidden = true; field.setAttribute("aria-expanded", "false"); field.removeAttribute("aria-activedescendant"); at = -1; };
  const leave = () => { field.value = ""; nothing.textContent = ""; close(); };
  const mark = (to) => {
    at = to;
    [...list.children].forEach((item, i) => item.setAttribute("aria-selected", i === at ? "true" : "false"));
    if (at >= 0) { field.setAttribute("aria-activedescendant", list.children[at].id); list.children[at].scrollIntoView({ block: "nearest" }); }
  };
  const take = (value) => { leave(); choose(value); };
  const open = () => {
    const words = field.value.toLowerCase().split(/[\s]+/).filter(Boolean);
    const rank = (x) => (x.value.toLowerCase().startsWith(words[0] || "") ? 0 : 1);
    found = items().filter((x) => { const text = `${x.value} ${x.title} ${x.more}`.toLowerCase(); return words.every((w) => text.includes(w)); })
      .sort((a, b) => rank(a) - rank(b)).slice(0, 200);
    const typed = field.value.trim();
    if (free && typed && !found.some((x) => x.value === typed)) found.unshift({ value: typed, title: free, more: "" });
    list.replaceChildren(...found.map((x, i) => h("li", { id: `${id}-${i}`, role: "option", "aria-selected": "false", onmousedown: (e) => { e.preventDefault(); take(x.value); } },
      h("b", {}, x.value), " ", h("span", { class: "hint" }, x.title))));
    list.hidden = !found.length;
    nothing.textContent = typed && !found.length ? "nothing of this name" : "";
    field.setAttribute("aria-expanded", String(!list.hidden));
    at = -1;
    if (typed && found.length) mark(0);
  };
  field.addEventListener("input", open);
  field.addEventListener("click", open);
  field.addEventListener("blur", leave);
  field.addEventListener("keydown", (e) => {
    if (e.key === "ArrowDown" || e.key === "ArrowUp") {
      e.preventDefault();
      if (list.hidden) open();
      else mark((at + (e.key === "ArrowDown" ? 1 : found.length - 1 + (at < 0 ? 1 : 0))) % found.length);
    } else if (e.key === "Enter") {
      e.preventDefault();
      if (at >= 0) take(found[at].value);
    } else if (e.key === "Escape") leave();
  });
  place.replaceChildren(field, list, nothing);
}
