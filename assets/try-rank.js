// The two rankings of "Try it on your photos", side by side, and the sheet with their scores.
const find = (id) => document.getElementById(id);
const still = matchMedia('(prefers-reduced-motion: reduce)');
const percent = (part) => `${(100 * part).toFixed(3)}%`;
const score = (value) => value.toFixed(2).replace(/^-0\.00$/, '0.00');
const make = (tag, rest) => Object.assign(document.createElement(tag), rest);

function place(node, [x1, y1, x2, y2]) {
  Object.assign(node.style, { left: percent(x1), top: percent(y1), width: percent(x2 - x1), height: percent(y2 - y1) });
}

// A part of a picture (as fractions of its sides), its longer side filling the square.
export function crop(node, address, { width, height }, [x1, y1, x2, y2]) {
  const image = node.querySelector('img') ?? node.appendChild(make('img', { alt: '' }));
  const ratio = width / height;
  const side = Math.max((x2 - x1) * ratio, y2 - y1);
  if (image.getAttribute('src') !== address) image.src = address;
  Object.assign(image.style, {
    height: percent(1 / side), width: percent(ratio / side),
    left: percent(0.5 - ((x1 + x2) * ratio) / 2 / side), top: percent(0.5 - (y1 + y2) / 2 / side),
  });
  const [across, down] = [((x2 - x1) * ratio) / side, (y2 - y1) / side].map((part) => (1 - part) / 2);
  node.style.clipPath = `inset(${percent(down)} ${percent(across)} round 6px)`;
}

// A picture with a box on it, which is shown when its own picture is there, never over the one before it.
function show(holder, address, { width, height }, box) {
  const image = holder.querySelector('img');
  holder.style.setProperty('--ratio', width / height);
  holder.classList.toggle('wide', width / height > 4 / 3);
  if (box) place(holder.querySelector('.box'), box);
  else holder.querySelector('.box')?.remove();
  if (image.getAttribute('src') === address && image.complete) return;
  holder.classList.remove('ready');
  image.onload = () => holder.classList.add('ready');
  image.src = address;
}

// `sizeOf` and `addressOf` know the pictures by name; `query` gives the query's name and box; `contains` the names of
// those that the visitor says contain the object.
export function rankings({ sizeOf, addressOf, query, contains }) {
  const sheet = find('sheet');
  let found = null;
  let opened = null;  // name of the picture in the sheet
  const names = (kind) => (found?.[kind] ?? []).filter(sizeOf);
  const whole = (name) => found.pictures[name].levels[0];
  const best = (name) => Math.max(...found.pictures[name].levels);

  function card(node, name, rank, patches) {
    const value = score(patches ? best(name) : whole(name));
    node.dataset.name = name;
    show(node.querySelector('.fit'), addressOf(name), sizeOf(name), patches && found.pictures[name].box);
    node.querySelector('.rank').textContent = rank;
    node.querySelector('.value').textContent = value;
    node.querySelector('.open').setAttribute('aria-label', `Rank ${rank}, similarity ${value}: ${name}. Open.`);
    node.querySelector('.tick').setAttribute('aria-label', `${name} contains the object`);
    return node;
  }

  // Cards that stay glide to their new ranks (FLIP); others fade in.
  function fill(list, patches) {
    const old = new Map([...list.children].map((node) => [node.dataset.name, node]));
    const before = new Map([...old.values()].map((node) => [node, node.getBoundingClientRect()]));
    list.replaceChildren(...names(patches ? 'patches' : 'whole').map((name, at) => (
      card(old.get(name) ?? find('card').content.firstElementChild.cloneNode(true), name, at + 1, patches)
    )));
    if (still.matches) return;
    for (const node of list.children) {
      const from = before.get(node);
      const to = node.getBoundingClientRect();
      node.animate(from
        ? [{ transform: `translate(${from.left - to.left}px, ${from.top - to.top}px)` }, { transform: 'none' }]
        : [{ opacity: 0, transform: 'translateY(14px)' }, { opacity: 1, transform: 'none' }],
      { duration: 600, easing: 'cubic-bezier(.3, .1, .2, 1)' });
    }
  }

  function draw(answer) {
    found = answer;
    document.body.classList.toggle('has-found', Boolean(found?.total));
    find('finest').textContent = found?.grids.at(-1) ? `${found.grids.at(-1)}×${found.grids.at(-1)}` : '';
    find('method').textContent = found?.method ?? '';
    fill(find('cards-whole'), false);
    fill(find('cards-patches'), true);
    tick();
    if (sheet.open) drawSheet();
  }

  // Where each ranking has the pictures that the visitor says contain the object.
  function tick() {
    const yes = contains().filter((name) => found?.pictures[name]);
    for (const node of document.querySelectorAll('.found .card')) {
      node.classList.toggle('right', yes.includes(node.dataset.name));
      node.querySelector('.tick').setAttribute('aria-pressed', yes.includes(node.dataset.name));
    }
    for (const kind of ['whole', 'patches']) {
      const first = names(kind).slice(0, yes.length).filter((name) => yes.includes(name)).length;
      find(`numbers-${kind}`).textContent = yes.length ? `${first} of ${yes.length} in the top ${yes.length}` : '';
    }
  }

  function row(name) {
    const bar = (value) => {
      const cell = make('td');
      cell.append(make('i', { className: 'bar', style: `--value: ${Math.max(0, value)}` }), score(value));
      return cell;
    };
    const node = make('tr', { className: name === opened ? 'now' : '' });
    const head = node.appendChild(make('th', { scope: 'row' }));
    const open = head.appendChild(make('button', { type: 'button', className: 'open thumb', ariaLabel: `Open ${name}` }));
    open.dataset.name = name;
    open.append(make('img', { src: addressOf(name), alt: '' }));
    node.append(bar(whole(name)), bar(best(name)));
    return node;
  }

  function drawSheet() {
    find('scores').replaceChildren(...names('patches').map(row));
    const one = opened && found?.pictures[opened];
    find('one').hidden = !one;
    find('sheet-title').textContent = one ? opened : 'Scores';
    if (!one) return;
    show(find('one-pic'), addressOf(opened), sizeOf(opened), one.box);
    find('one-pic').querySelector('img').alt = opened;
    crop(find('one-query'), addressOf(query().name), sizeOf(query().name), query().box);
    crop(find('one-patch'), addressOf(opened), sizeOf(opened), one.box);
    const grid = found.grids[one.levels.indexOf(best(opened))];
    const rank = (kind) => (found[kind].includes(opened) ? `rank ${found[kind].indexOf(opened) + 1}` : `below rank ${found[kind].length}`);
    find('one-said').textContent = `Whole image: similarity ${score(whole(opened))}, ${rank('whole')}. `
      + `Best patch${grid ? ` (${grid}×${grid} grid)` : ''}: similarity ${score(best(opened))}, ${rank('patches')}.`;
  }

  function open(name) {
    opened = name;
    drawSheet();
    if (!sheet.open) {
      sheet.showModal();
      history.pushState({ sheet: true }, '');  // Back closes it
    }
    sheet.scrollTop = 0;
  }

  function close() {
    if (sheet.open) history.state?.sheet ? history.back() : sheet.close();
  }

  addEventListener('popstate', () => {
    if (!sheet.open) return;
    sheet.close();
    document.querySelector(`#cards-patches [data-name="${CSS.escape(opened ?? '')}"] .open`)?.focus();
  });
  sheet.addEventListener('cancel', (event) => { event.preventDefault(); close(); });
  sheet.addEventListener('click', (event) => { if (event.target === sheet) close(); });  // beside it

  return { draw, tick, open, close };
}
