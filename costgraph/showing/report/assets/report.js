// A report is one file: its bundle lies in the page.
const text = (index) => () => $("texts").children[index].content.cloneNode(true);
wire();
present(adopted(JSON.parse($("data").textContent), FUNCTIONS, text));
