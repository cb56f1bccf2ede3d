// A picture with a description, captioned; where `pickable`, a click or the arrow keys choose a cell of its grid.
function render({ model, el }) {
  const figure = document.createElement("figure");
  const frame = document.createElement("div");
  const image = document.createElement("img");
  const mark = document.createElement("div");
  const caption = document.createElement("figcaption");
  figure.className = "tlg-picture";
  frame.className = "tlg-frame";
  mark.className = "tlg-mark";
  frame.append(image, mark);
  figure.append(frame, caption);
  el.append(figure);

  let url = "";
  function showImage() {
    const old = url;
    url = URL.createObjectURL(new Blob([model.get("data")], { type: "image/png" }));
    image.src = url;
    if (old) URL.revokeObjectURL(old);
  }
  function showRest() {
    const [rows, columns] = [model.get("rows"), model.get("columns")];
    const [row, column] = [model.get("row"), model.get("column")];
    const pickable = model.get("pickable");
    figure.style.width = image.style.width = `${model.get("width")}px`;
    image.alt = model.get("alt");
    caption.textContent = model.get("caption");
    mark.style.display = pickable ? "block" : "none";
    mark.style.left = `${(100 * column) / columns}%`;
    mark.style.top = `${(100 * row) / rows}%`;
    mark.style.width = `${100 / columns}%`;
    mark.style.height = `${100 / rows}%`;
    if (!pickable) return;
    frame.tabIndex = 0;
    frame.classList.add("tlg-pickable");
    frame.setAttribute("role", "application");
    frame.dataset.lmSuppressShortcuts = "true"; // the notebook must not take the arrow keys
    frame.setAttribute("aria-label",
      `${model.get("alt")} Row ${row + 1} of ${rows}, column ${column + 1} of ${columns}. Arrow keys move.`);
  }
  function pick(row, column) {
    const inside = (value, count) => Math.min(count - 1, Math.max(0, value));
    model.set("row", inside(row, model.get("rows")));
    model.set("column", inside(column, model.get("columns")));
    model.save_changes();
  }
  frame.addEventListener("click", (event) => {
    if (!model.get("pickable")) return;
    const box = image.getBoundingClientRect();
    pick(Math.floor((model.get("rows") * (event.clientY - box.top)) / box.height),
      Math.floor((model.get("columns") * (event.clientX - box.left)) / box.width));
  });
  frame.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!model.get("pickable") || !step) return;
    event.preventDefault();
    event.stopPropagation();
    pick(model.get("row") + step[0], model.get("column") + step[1]);
  });
  model.on("change:data", showImage);
  for (const name of ["rows", "columns", "row", "column", "width", "alt", "caption", "pickable"]) {
    model.on(`change:${name}`, showRest);
  }
  showImage();
  showRest();
  return () => URL.revokeObjectURL(url);
}
export default { render };
