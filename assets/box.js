// The box on a picture: drawn, moved and resized by mouse, finger or keyboard. A plain script that needs no other:
//
//   const tool = window.patchifyBox(root, { label: 'Query box', changed: (box, by) => { … } });
//   tool.open(width, height, box);
//
// `root` stays on the page and contains one .pf-draw with the picture; all else may be drawn anew around the tool, which
// looks up what it needs and keeps the state in attributes: the picture's size in data-width and data-height of the
// stage, the box in data-box of .pf-draw-box (made here where it is missing). A box is [x1, y1, x2, y2] in pixels of
// the picture, or null for the whole picture. `by` is 'pointer', 'key' (more may follow at once) or 'whole'.
(() => {
  if (window.patchifyBox) return;  // Gradio may put this in more than once
  const HOLD_MS = 300;  // a finger that rests so long draws; one that swipes scrolls the page
  const SMALLEST = 4;  // pixels on the screen: less is a slip of the finger, not a box
  const STEPS = 40;  // key presses from one side of the picture to the other
  const WAYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  // What a screen reader is told once the box rests.
  let region = null;
  let speaking = null;
  function announce(text) {
    if (!region) {
      region = document.body.appendChild(document.createElement('div'));
      region.setAttribute('role', 'status');
      region.style.cssText = 'position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%)';
    }
    clearTimeout(speaking);
    speaking = setTimeout(() => { region.textContent = text; }, 250);
  }

  function hold(stage, event, begin) {
    const [x, y] = [event.clientX, event.clientY];
    const over = new AbortController();
    const timer = setTimeout(() => {
      over.abort();
      stage.classList.add('is-held');
      navigator.vibrate?.(10);
      begin();
    }, HOLD_MS);
    const stop = () => { clearTimeout(timer); over.abort(); };
    const moved = (one) => { if (Math.hypot(one.clientX - x, one.clientY - y) > 8) stop(); };
    document.addEventListener('pointermove', moved, { signal: over.signal });
    for (const kind of ['pointerup', 'pointercancel']) document.addEventListener(kind, stop, { signal: over.signal });
  }
  document.addEventListener('touchmove', (event) => { if (document.querySelector('.is-held')) event.preventDefault(); }, { passive: false });
  document.addEventListener('contextmenu', (event) => { if (event.target.closest?.('.is-held')) event.preventDefault(); });
  for (const kind of ['pointerup', 'pointercancel']) {
    document.addEventListener(kind, () => document.querySelectorAll('.is-held').forEach((stage) => stage.classList.remove('is-held')));
  }

  window.patchifyBox = (root, { changed, label = 'Box' }) => {
    const stage = () => root.querySelector('.pf-draw');
    const node = () => stage().querySelector('.pf-draw-box') ?? make();
    const size = () => [Number(stage().dataset.width), Number(stage().dataset.height)];
    const corners = () => node().dataset.box.split(',').map(Number);
    const isWhole = () => node().classList.contains('is-whole');
    let gesture = null;

    function make() {
      const made = Object.assign(document.createElement('div'), { className: 'pf-draw-box', tabIndex: 0 });
      made.setAttribute('role', 'application');
      made.setAttribute('aria-label', `${label}. Arrow keys move it, Shift and arrow keys resize it, Home selects the whole picture.`);
      made.innerHTML = '<i class="h nw"></i><i class="h ne"></i><i class="h sw"></i><i class="h se"></i>';
      return stage().appendChild(made);
    }

    function show(box) {
      const [width, height] = size();
      const drawn = (box ?? [0, 0, width, height]).map((value) => Number(value.toFixed(1)));
      const [x1, y1, x2, y2] = drawn;
      node().classList.toggle('is-whole', !box);
      node().dataset.box = drawn.map((value) => value.toFixed(1)).join(',');
      Object.assign(node().style, {
        left: `${(100 * x1) / width}%`, top: `${(100 * y1) / height}%`,
        width: `${(100 * (x2 - x1)) / width}%`, height: `${(100 * (y2 - y1)) / height}%`,
      });
    }

    function tell(by) {
      const [width, height] = size();
      const [left, top, right, bottom] = corners().map((value, n) => Math.round((100 * value) / (n % 2 ? height : width)));
      announce(isWhole() ? `${label}: the whole picture` : `${label}: ${left} to ${right} % from the left, ${top} to ${bottom} % from the top`);
      changed(isWhole() ? null : corners(), by);
    }

    // By pointer -----------------------------------------------------------------------------------------------------

    function at(event) {
      const [width, height] = size();
      const rect = stage().getBoundingClientRect();
      return [
        clamp(((event.clientX - rect.left) / rect.width) * width, 0, width),
        clamp(((event.clientY - rect.top) / rect.height) * height, 0, height),
      ];
    }

    function begin(event) {
      event.preventDefault();
      const handle = event.target.closest('.h');
      const box = corners();
      const inside = event.target.closest('.pf-draw-box') && !isWhole();
      gesture = {
        moves: inside && !handle, start: at(event), before: isWhole() ? null : box, box: null,
        screen: [event.clientX, event.clientY], picture: stage().dataset.picture,
      };
      if (handle) {
        // The corner opposite the handle stays where it is.
        const west = handle.matches('.nw, .sw');
        const north = handle.matches('.nw, .ne');
        gesture.start = [west ? box[2] : box[0], north ? box[3] : box[1]];
      }
      stage().setPointerCapture(event.pointerId);
    }

    root.addEventListener('pointerdown', (event) => {
      const area = event.target.closest('.pf-draw');
      if (!area || event.button > 0) return;
      if (event.pointerType === 'touch' && !event.target.closest('.h')) hold(area, event, () => begin(event));
      else begin(event);  // nobody scrolls by a handle
    });

    root.addEventListener('pointermove', (event) => {
      if (!gesture) return;
      if (Math.hypot(event.clientX - gesture.screen[0], event.clientY - gesture.screen[1]) < SMALLEST && !gesture.box) return;
      const [x, y] = at(event);
      const [sx, sy] = gesture.start;
      if (gesture.moves) {
        const [width, height] = size();
        const [x1, y1, x2, y2] = gesture.before;
        const dx = clamp(x - sx, -x1, width - x2);
        const dy = clamp(y - sy, -y1, height - y2);
        gesture.box = [x1 + dx, y1 + dy, x2 + dx, y2 + dy];
      } else {
        gesture.box = [Math.min(x, sx), Math.min(y, sy), Math.max(x, sx), Math.max(y, sy)];
      }
      show(gesture.box);
    });

    function end(event) {
      if (!gesture) return;
      const { box, before, screen } = gesture;
      gesture = null;
      const slip = !box || Math.hypot(event.clientX - screen[0], event.clientY - screen[1]) < SMALLEST;
      if (slip || box[2] - box[0] < 1 || box[3] - box[1] < 1) return show(before);
      tell('pointer');
    }
    root.addEventListener('pointerup', end);
    root.addEventListener('pointercancel', end);

    // By keyboard ----------------------------------------------------------------------------------------------------

    root.addEventListener('keydown', (event) => {
      if (!event.target.closest('.pf-draw-box')) return;
      const way = WAYS[event.key];
      if (!way && event.key !== 'Home') return;
      event.preventDefault();
      if (!way) return whole();
      const [width, height] = size();
      const step = [Math.max(1, width / STEPS), Math.max(1, height / STEPS)];
      const [dx, dy] = [way[0] * step[0], way[1] * step[1]];
      const [x1, y1, x2, y2] = corners();
      if (event.shiftKey) {
        const least = [Math.min(x1 + step[0], width), Math.min(y1 + step[1], height)];
        show([x1, y1, clamp(x2 + dx, least[0], width), clamp(y2 + dy, least[1], height)]);
      } else {
        const moves = [clamp(dx, -x1, width - x2), clamp(dy, -y1, height - y2)];
        show([x1 + moves[0], y1 + moves[1], x2 + moves[0], y2 + moves[1]]);
      }
      tell('key');
    });

    function whole() {
      show(null);
      tell('whole');
    }

    return {
      corners,
      show,  // a box, without a call of `changed`
      whole,
      // Another picture is in the stage, with the box that it begins with.
      open(width, height, box = null) {
        gesture = null;
        Object.assign(stage().dataset, { width, height });
        show(box);
      },
      // A box to begin with, for whoever has no pointer.
      suggest() {
        const [width, height] = size();
        show([width / 4, height / 4, (3 * width) / 4, (3 * height) / 4]);
        tell('key');
        node().focus();
      },
      // The stage was drawn anew by others: what is being drawn stays, unless the picture is another one.
      redrawn() {
        if (stage()?.dataset.picture !== gesture?.picture) gesture = null;
        if (gesture?.box) show(gesture.box);
      },
    };
  };
})();
