// A box on one of the visitor's pictures: drawn by pointer, moved and resized by keyboard too.
function boxTool(stage, node, changed) {
  let size = [1, 1];
  let box = null;
  let start = null;
  const clamp = (value, high) => Math.min(Math.max(value, 0), high);

  function show() {
    node.hidden = !box;
    if (!box) return;
    const [width, height] = size;
    node.style.left = `${(100 * box[0]) / width}%`;
    node.style.top = `${(100 * box[1]) / height}%`;
    node.style.width = `${(100 * (box[2] - box[0])) / width}%`;
    node.style.height = `${(100 * (box[3] - box[1])) / height}%`;
  }

  function at(event) {
    const rect = stage.getBoundingClientRect();
    return [
      clamp(((event.clientX - rect.left) / rect.width) * size[0], size[0]),
      clamp(((event.clientY - rect.top) / rect.height) * size[1], size[1]),
    ];
  }

  stage.addEventListener('pointerdown', (event) => {
    if (event.button > 0) return;
    window.patchifyHold(stage, event, () => {
      event.preventDefault();
      start = { at: at(event), screen: [event.clientX, event.clientY], before: box };
      stage.setPointerCapture(event.pointerId);
    });
  });
  stage.addEventListener('pointermove', (event) => {
    if (!start) return;
    if (Math.hypot(event.clientX - start.screen[0], event.clientY - start.screen[1]) < 4) return;
    const [x, y] = at(event);
    const [sx, sy] = start.at;
    box = [Math.min(x, sx), Math.min(y, sy), Math.max(x, sx), Math.max(y, sy)];
    show();
  });
  function end() {
    if (!start) return;
    if (box && (box[2] - box[0] < 2 || box[3] - box[1] < 2)) box = start.before;
    start = null;
    show();
    changed(box);
  }
  stage.addEventListener('pointerup', end);
  stage.addEventListener('pointercancel', end);

  node.addEventListener('keydown', (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!way || !box) return;
    event.preventDefault();
    const [width, height] = size;
    const dx = way[0] * Math.max(1, width / 40);
    const dy = way[1] * Math.max(1, height / 40);
    const [x1, y1, x2, y2] = box;
    if (event.shiftKey) {
      box = [x1, y1, Math.max(x1 + 2, clamp(x2 + dx, width)), Math.max(y1 + 2, clamp(y2 + dy, height))];
    } else {
      const mx = Math.min(Math.max(dx, -x1), width - x2);
      const my = Math.min(Math.max(dy, -y1), height - y2);
      box = [x1 + mx, y1 + my, x2 + mx, y2 + my];
    }
    show();
    changed(box);
  });

  return {
    // Another picture, with the box that it begins with: all but its rim, so that a keyboard has something to move.
    open(width, height, first) {
      size = [width, height];
      box = first;
      show();
    },
    suggest() {
      box = [size[0] / 4, size[1] / 4, (3 * size[0]) / 4, (3 * size[1]) / 4];
      show();
      changed(box);
      node.focus();
    },
    value: () => box,
  };
}
