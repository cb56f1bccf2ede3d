// A picture with a description, captioned; where `pickable`, a click or the arrow keys choose a cell of its grid. One
// that has the `size` of a photograph is drawn on instead.
function render({ model, el }) {
  const figure = document.createElement("figure");
  const frame = document.createElement("div");
  const image = document.createElement("img");
  const caption = document.createElement("figcaption");
  figure.className = "tlg-picture";
  frame.className = "tlg-frame";
  frame.append(image);
  figure.append(frame, caption);
  el.append(figure);
  const [showUse, names] = (model.get("size") ? drawing : picking)(model, frame, image);

  let url = "";
  function showImage() {
    const old = url;
    url = URL.createObjectURL(new Blob([model.get("data")], { type: "image/png" }));
    image.src = url;
    if (old) URL.revokeObjectURL(old);
  }
  function showRest() {
    figure.style.width = image.style.width = `${model.get("width")}px`;
    image.alt = model.get("alt");
    caption.textContent = model.get("caption");
    showUse();
  }
  model.on("change:data", showImage);
  for (const name of ["width", "alt", "caption", ...names]) model.on(`change:${name}`, showRest);
  showImage();
  showRest();
  return () => URL.revokeObjectURL(url);
}

// A cell of a grid is chosen. Returns what shows it, and the traits that this depends on.
function picking(model, frame, image) {
  const mark = document.createElement("div");
  mark.className = "tlg-mark";
  frame.append(mark);
  function show() {
    const [rows, columns] = [model.get("rows"), model.get("columns")];
    const [row, column] = [model.get("row"), model.get("column")];
    const pickable = model.get("pickable");
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
  return [show, ["rows", "columns", "row", "column", "pickable"]];
}

// A drag gives the corners of a box or the points of a line, in pixels of the photograph. Returns as `picking` does.
function drawing(model, frame, image) {
  const ink = document.createElement("canvas");
  ink.className = "tlg-ink";
  frame.classList.add("tlg-drawable");
  frame.append(ink);
  let line = null; // the points of the drag that goes on
  function show() {
    [ink.width, ink.height] = model.get("size");
  }
  function place(event) {
    const box = image.getBoundingClientRect();
    const [width, height] = model.get("size");
    const inside = (share, length) => Math.round(length * Math.min(1, Math.max(0, share)));
    return [inside((event.clientX - box.left) / box.width, width),
      inside((event.clientY - box.top) / box.height, height)];
  }
  function showInk() {
    const pen = ink.getContext("2d");
    pen.clearRect(0, 0, ink.width, ink.height);
    if (!line) return;
    pen.strokeStyle = "#d55e00";
    pen.lineWidth = Math.max(2, (2 * ink.width) / model.get("width"));
    const [[x0, y0], [x1, y1]] = [line[0], line[line.length - 1]];
    if (model.get("boxed")) return pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
    pen.beginPath();
    for (const [x, y] of line) pen.lineTo(x, y);
    pen.stroke();
  }
  frame.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    frame.setPointerCapture(event.pointerId);
    line = [place(event)];
  });
  frame.addEventListener("pointermove", (event) => {
    if (!line) return;
    line.push(place(event));
    showInk();
  });
  frame.addEventListener("pointerup", (event) => {
    if (!line) return;
    model.set("stroke", { points: [...line, place(event)], at: Date.now() }); // a stroke again in the same place is new
    model.save_changes();
    line = null;
    showInk();
  });
  frame.addEventListener("pointercancel", () => { line = null; showInk(); });
  return [show, ["size"]];
}
export default { render };
