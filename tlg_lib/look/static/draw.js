// A photograph to draw on: a drag gives the corners of a box or the points of a line, in pixels of the photograph.
function render({ model, el }) {
  const figure = document.createElement("figure");
  const frame = document.createElement("div");
  const image = document.createElement("img");
  const ink = document.createElement("canvas");
  const caption = document.createElement("figcaption");
  figure.className = "tlg-picture";
  frame.className = "tlg-frame tlg-drawable";
  ink.className = "tlg-ink";
  frame.append(image, ink);
  figure.append(frame, caption);
  el.append(figure);

  let url = "";
  let line = null; // the points of the drag that goes on, in pixels of the photograph
  function showImage() {
    const old = url;
    url = URL.createObjectURL(new Blob([model.get("data")], { type: "image/png" }));
    image.src = url;
    if (old) URL.revokeObjectURL(old);
  }
  function showRest() {
    const [width, height] = model.get("size");
    figure.style.width = image.style.width = `${model.get("width")}px`;
    [ink.width, ink.height] = [width, height];
    image.alt = model.get("alt");
    caption.textContent = model.get("caption");
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
  model.on("change:data", showImage);
  for (const name of ["size", "width", "alt", "caption"]) model.on(`change:${name}`, showRest);
  showImage();
  showRest();
  return () => URL.revokeObjectURL(url);
}
export default { render };
