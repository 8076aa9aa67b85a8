// "See the paper": two rankings of one query, what changes between the grids, and one result looked into. Every number
// comes from the library, in paper.json; nothing is computed here but where things stand on the page. The whole state
// is in the address: q (query), level (finest grid), size (band of sizes), open (result).
(() => {
  'use strict';
  const find = (id) => document.getElementById(id);
  const { root } = document.documentElement.dataset;
  const still = matchMedia('(prefers-reduced-motion: reduce)');
  let data = JSON.parse(find('data').textContent);  // the first example; all of them once paper.json is here
  let state = null;
  let playing = 0;  // number of the animation that runs: a later one ends it
  let opener = null;
  let tool = null;  // draws boxes on the query, where a server answers them
  let asking = null;
  const boxed = new Map();  // `example box` -> its answer

  // Words and numbers ---------------------------------------------------------------------------------------------

  const WORDS = {
    right: ['right', '✓ good box', 'match, good box'], off: ['right', '✓ match', 'match, poor box'], match: ['right', '✓ match', 'match, no box annotated'], wrong: ['wrong', '✕ wrong object', 'wrong object'],
    ignored: ['', '– not counted', 'not counted'], itself: ['', '= the query', 'the query itself'], unknown: ['', '? not annotated', 'not annotated'],
  };
  const number = (value, digits) => (value === null || value === undefined ? '–' : value.toFixed(digits));
  // Never rounded up to a half that was not reached: a box is good from IoU 0.5 on.
  const iou = (value) => (value < 0.5 && value.toFixed(2) === '0.50' ? '0.49' : number(value, 2));
  const overlap = (value) => (value === null ? '' : `IoU ${iou(value)}`);
  const bands = () => data.sizes.map((one) => one.name.replace('>= ', '≥ '));
  const example = () => data.examples.find((one) => one.id === state.q) ?? data.examples[0];
  const entry = () => boxed.get(`${state.q} ${state.crop}`) ?? example();  // with another box, once it is answered
  const last = () => data.levels.length;
  const gridName = (level) => `${data.levels[level - 1].grid}×${data.levels[level - 1].grid}`;
  const pictureOf = (id) => { const [file, width, height] = data.pictures[id]; return { file: `${root}paper/${file}`, width, height }; };

  // Patch number -> its cell as [x, y, side], in parts of the picture. Grids come coarse to fine, rows first.
  function cellOf(patch) {
    let left = patch;
    for (const { grid } of data.levels) {
      if (left < grid * grid) return [(left % grid) / grid, Math.floor(left / grid) / grid, 1 / grid];
      left -= grid * grid;
    }
    throw new Error(`no patch ${patch}`);
  }
  const percent = (part) => `${(100 * part).toFixed(3)}%`;
  function place(node, [x, y, width, height = width]) {
    Object.assign(node.style, { left: percent(x), top: percent(y), width: percent(width), height: percent(height) });
  }

  function fit(holder, width, height) {
    holder.style.setProperty('--ratio', width / height);
    holder.classList.toggle('wide', width / height > 4 / 3);
  }

  // A box is shown when its own picture is there, never over the one before it.
  function show(holder, image, file) {
    if (image.getAttribute('src') === file && image.complete) return holder.classList.add('ready');
    holder.classList.remove('ready');
    image.onload = () => holder.classList.add('ready');
    image.src = file;
    if (image.complete && image.naturalWidth) holder.classList.add('ready');
  }

  // The address ----------------------------------------------------------------------------------------------------

  function read() {
    const address = new URLSearchParams(location.search);
    const whole = (name, low, high) => {
      const text = address.get(name) ?? '';
      return /^\d{1,9}$/.test(text) && Number(text) >= low && Number(text) <= high ? Number(text) : null;
    };
    const q = /^example-(\d{1,9})$/.exec(address.get('q') ?? '');
    const known = data.examples.some((one) => q && one.id === Number(q[1])) || !data.complete;
    return {
      q: q && known ? Number(q[1]) : data.first, level: whole('level', 1, last()) ?? last(),
      size: whole('size', 1, data.sizes.length) ?? 0, open: whole('open', 0, 999999999),
      crop: window.patchifyBox && /^(whole|[\d.]+(,[\d.]+){3})$/.test(address.get('crop') ?? '') ? address.get('crop') : null,
    };
  }

  function write(how) {
    const address = new URLSearchParams(location.search);
    const set = (name, value, usual) => (value === usual ? address.delete(name) : address.set(name, value));
    set('q', `example-${state.q}`, `example-${data.first}`);
    set('level', state.level, last());
    set('size', state.size, 0);
    set('open', state.open, null);
    set('crop', state.crop, null);
    const search = address.toString();
    if (how) history[how](null, '', `${location.pathname}${search && '?'}${search}${location.hash}`);
  }

  // A new query or an opened result is a step that Back takes back; a grid or a size is not.
  function go(change) {
    const step = 'q' in change || 'open' in change || 'crop' in change;
    if ('q' in change) change = { open: null, crop: null, ...change };
    if ('crop' in change) change = { open: null, ...change };
    state = { ...state, ...change };
    write(step ? 'pushState' : 'replaceState');
    draw();
  }

  // The two rankings -----------------------------------------------------------------------------------------------

  const counted = (picture) => {
    if (!state.size) return true;
    const row = entry().positives.find((one) => one.picture === picture);
    if (!row) return true;
    const limits = [0, ...data.limits, Infinity];
    return row.share !== null && row.share >= limits[state.size - 1] && row.share < limits[state.size];
  };

  function card(result, rank) {
    const node = find('card').content.firstElementChild.cloneNode(true);
    const [kind, words, whole] = WORDS[result.verdict];
    const { file, width, height } = pictureOf(result.picture);
    const holder = node.querySelector('.fit');
    node.dataset.picture = result.picture;
    node.className = `card ${kind}${counted(result.picture) ? '' : ' out'}`;
    show(holder, node.querySelector('img'), file);
    place(node.querySelector('.box'), cellOf(result.patch));
    fit(holder, width, height);
    node.querySelector('.rank').textContent = rank;
    node.querySelector('.verdict').textContent = words;
    node.querySelector('.value').textContent = overlap(result.iou);
    node.querySelector('.open').setAttribute('aria-label',
      `Rank ${rank}, similarity ${number(result.score, 3)}, ${whole}${result.iou === null ? '' : `, ${overlap(result.iou)}`}. Open.`);
    return node;
  }

  // Cards that stay glide to their new ranks (FLIP); others fade in.
  function fill(list, level, glide) {
    const before = new Map([...list.children].map((node) => [node.dataset.picture, node.getBoundingClientRect()]));
    const old = new Map([...list.children].map((node) => [node.dataset.picture, node]));
    const scrolled = list.scrollLeft;
    list.replaceChildren(...entry().levels[level - 1].results.map((result, at) => {
      const made = card(result, at + 1);
      const same = old.get(String(result.picture))?.querySelector('img');
      if (same && same.getAttribute('src') === made.querySelector('img').getAttribute('src')) {
        made.querySelector('img').replaceWith(same);  // no picture is loaded or blinks twice
        if (same.complete) made.querySelector('.fit').classList.add('ready');
        else same.onload = () => made.querySelector('.fit').classList.add('ready');
      }
      return made;
    }));
    list.scrollLeft = glide ? scrolled : 0;
    if (!glide || still.matches) return;
    for (const node of list.children) {
      const from = before.get(node.dataset.picture);
      const to = node.getBoundingClientRect();
      const frames = from
        ? [{ transform: `translate(${from.left - to.left}px, ${from.top - to.top}px)` }, { transform: 'none' }]
        : [{ opacity: 0, transform: 'translateY(14px)' }, { opacity: 1, transform: 'none' }];
      node.animate(frames, { duration: 650, easing: 'cubic-bezier(.3, .1, .2, 1)' });
    }
  }

  function scores(level) {
    const one = entry();
    return state.size ? one.bands[state.size - 1]?.levels[level - 1] ?? { ap: null, locscore: null } : one.levels[level - 1];
  }

  function numbers(node, level) {
    const { results } = entry().levels[level - 1];
    const { ap, locscore } = scores(level);
    const say = (tag, text) => Object.assign(document.createElement(tag), { textContent: text });
    const dots = Object.assign(document.createElement('span'), { className: 'dots' });
    dots.setAttribute('aria-hidden', 'true');
    dots.append(...results.map((result) => Object.assign(document.createElement('i'), { className: `${WORDS[result.verdict][0]}${counted(result.picture) ? '' : ' out'}` })));
    const matches = results.filter((result) => ['right', 'off', 'match'].includes(result.verdict) && counted(result.picture)).length;
    const known = entry().positives.filter((one) => counted(one.picture)).length;
    const hits = say('span', entry().known === false ? 'not annotated, so no score'
      : state.size && !known ? 'in no picture at that size' : known ? `${matches} of ${known} in the top ${results.length}` : `${matches} in the top ${results.length}`);
    hits.className = 'hits';
    const score = (name, value, title) => {
      const part = document.createElement('span');
      part.append(' · ', Object.assign(document.createElement('abbr'), { textContent: name, title }), ' ', say('b', number(value, 2)));
      return part;
    };
    node.replaceChildren(dots, hits, ...(entry().known === false ? [] : [score('AP', ap, 'Average precision: 1.00 when every picture that contains the object is ranked before all others'),
      score('LocScore', locscore, 'AP in which each match counts by how well its box overlaps the annotated one (IoU)')]));
  }

  // Another box: what is shown stays, dimmed, until its answer is here. A server that is starting or busy is asked again.
  async function ask(tries = 0) {
    const key = `${state.q} ${state.crop}`;
    asking?.abort();
    asking = null;
    const wanted = state.crop !== null && !boxed.has(key);
    find('results').classList.toggle('waiting', wanted);
    if (!wanted) return;
    asking = new AbortController();
    const { signal } = asking;
    try {
      const answer = await fetch(`${root}paper/answer?q=${state.q}&box=${state.crop}`, { signal });
      if (answer.status === 503 && tries < 20) return void setTimeout(() => { if (!signal.aborted) ask(tries + 1); }, 1000);
      const made = await answer.json();
      if (!answer.ok) throw new Error(made.detail);
      Object.assign(data.pictures, made.pictures);
      boxed.set(key, made.entry);
    } catch (error) {
      if (signal.aborted) return;
      find('said').textContent = error instanceof TypeError ? 'The server does not answer: try again.' : error.message;
      find('said').classList.remove('sr');
      state = { ...state, crop: null };
      write('replaceState');
      drawn = null;
    }
    find('results').classList.remove('waiting');
    draw();
  }

  let drawn = null;  // the query and the grid that are on the page
  function draw() {
    if (state.crop !== null && !boxed.has(`${state.q} ${state.crop}`)) {
      if (!drawn || drawn.q !== state.q) drawQuery(example());
      return ask();
    }
    asking?.abort();
    find('results').classList.remove('waiting');
    const one = entry();
    const level = state.level;
    const another = drawn?.q !== one.id || drawn.crop !== state.crop;
    if (another && state.crop !== null) find('said').classList.add('sr');
    if (another) drawQuery(one);
    if (another || drawn.size !== state.size) fill(find('cards-whole'), 1, false);
    if (another || drawn.level !== level || drawn.size !== state.size) fill(find('cards-patches'), level, !another);
    numbers(find('numbers-whole'), 1);
    numbers(find('numbers-patches'), level);
    find('patches-grid').textContent = gridName(level);
    for (const button of find('levels').children) {
      const chosen = Number(button.dataset.level) === level;
      button.setAttribute('aria-checked', chosen);
      button.tabIndex = chosen ? 0 : -1;
    }
    if (drawn && (another || drawn.level !== level)) {
      find('said').textContent = `${one.name}: whole image ${one.levels[0].found}, patches ${gridName(level)} ${one.levels[level - 1].found} of the top ${one.levels[0].results.length}.`;
    }
    if (another || drawn.size !== state.size || drawn.level !== level) drawSizes();
    const teach = find('teach');  // the walk through this query, by the paper's method too
    if (teach) {
      const address = new URL(teach.href);
      address.searchParams.set('q', `example-${one.id}`);
      if (state.crop === null) address.searchParams.delete('box');
      else address.searchParams.set('box', state.crop);
      address.searchParams.set('level', state.level);
      teach.href = address;
    }
    drawn = { q: one.id, crop: state.crop, level, size: state.size };
    drawLook();
  }

  function drawQuery(one) {
    const holder = find('query');
    const draws = window.patchifyBox && matchMedia('(min-width: 721px)').matches;  // on a phone the query is too small
    const region = state.crop === null ? one.box : corners();
    if (!holder.firstChild) holder.innerHTML = draws ? '<img draggable="false">' : '<img><span class="box"></span>';
    const image = holder.querySelector('img');
    image.alt = `Query: ${one.name}`;
    fit(holder, one.width, one.height);
    show(holder, image, `${root}paper/${one.picture}`);
    const box = holder.querySelector('.box');
    if (draws && !box) {
      holder.classList.add('pf-draw');
      tool ??= window.patchifyBox(holder.parentElement, { label: 'Query box', changed });
      tool.open(one.width, one.height, region);
    }
    if (find('own-box')) find('own-box').hidden = state.crop === null;
    if (box) box.hidden = !region;
    if (box && region) {
      const [x1, y1, x2, y2] = region;
      place(box, [x1 / one.width, y1 / one.height, (x2 - x1) / one.width, (y2 - y1) / one.height]);
    }
    find('query-name').textContent = one.known === false ? 'what your box shows' : one.name;
    for (const button of find('examples').children) button.setAttribute('aria-pressed', Number(button.dataset.example) === one.id);
  }

  const corners = () => (state.crop === 'whole' ? null : state.crop.split(',').map(Number));
  let moving = null;
  function changed(box, by) {
    clearTimeout(moving);
    const crop = box ? box.map((value) => Number(value.toFixed(1))).join(',') : 'whole';
    moving = setTimeout(() => go({ crop }), by === 'key' ? 500 : 0);
  }

  // Sizes ----------------------------------------------------------------------------------------------------------

  function drawSizes() {
    const one = entry();
    const level = state.level;
    const names = bands();
    const grid = gridName(level);
    find('size').value = state.size ? data.sizes.length + 1 - state.size : 0;  // from the largest to the smallest
    const name = state.size ? names[state.size - 1] : 'all sizes';
    find('size').setAttribute('aria-valuetext', name);
    find('chart-grid').textContent = grid;
    find('chart-queries').textContent = data.overall[0].queries;
    const pick = (at) => (state.size ? data.sizes[state.size - 1].levels[at - 1]?.map : data.overall[at - 1].map);
    const whole = state.size ? one.bands[state.size - 1]?.positives ?? 0 : one.positives.length;
    const unknown = one.known === false;
    const bold = (text) => Object.assign(document.createElement('b'), { textContent: text });
    find('size-said').replaceChildren(
      state.size ? `Objects of ${name.replace('-', ' to ')} of the picture: mean AP ` : 'Objects of all sizes: mean AP ',
      bold(number(pick(1), 2)), ' whole images, ', bold(number(pick(level), 2)), ` patches ${grid}`,
    );
    find('sizes-said').textContent = unknown ? '' : (state.size ? `The ${one.name} has ${whole} picture${whole === 1 ? '' : 's'} of that size` : `The ${one.name} is in ${whole} pictures`)
      + (whole ? `: AP ${number(scores(1).ap, 2)} by whole images, ${number(scores(level).ap, 2)} by patches ${grid}.` : '.')
      + ' Move the slider above to count objects of one size only.';

    const [width, height, left, bottom, top] = [640, 236, 34, 44, 14];
    const step = (width - left) / data.sizes.length;
    const y = (value) => height - bottom - value * (height - bottom - top);
    let svg = '';
    for (const tick of [0, 0.5, 1]) svg += `<line x1="${left}" x2="${width}" y1="${y(tick)}" y2="${y(tick)}" stroke="var(--line)"/><text class="axis" x="0" y="${y(tick) + 4}">${tick.toFixed(1)}</text>`;
    data.sizes.forEach((band, at) => {
      const place = data.sizes.length - 1 - at;  // large objects first
      const x = left + place * step;
      const bars = [[band.levels[0], 'var(--base)', 0.14], [band.levels[level - 1], 'var(--ask)', 0.5]];
      svg += `<g class="${state.size && state.size !== at + 1 ? 'dim' : ''}">`;
      for (const [scored, colour, offset] of bars) {
        const value = scored?.map ?? 0;
        svg += `<rect x="${x + offset * step}" y="${y(value)}" width="${0.34 * step}" height="${height - bottom - y(value)}" fill="${colour}" rx="3"/>`
          + `<text x="${x + (offset + 0.17) * step}" y="${y(value) - 4}" text-anchor="middle">${number(scored?.map, 2)}</text>`;
      }
      svg += `<text x="${x + 0.49 * step}" y="${height - bottom + 18}" text-anchor="middle">${names[at]}</text>`
        + `<text class="axis" x="${x + 0.49 * step}" y="${height - bottom + 34}" text-anchor="middle">${band.positives} objects</text></g>`;
    });
    const text = data.sizes.map((band, at) => `${names[at]}: ${number(band.levels[0]?.map, 2)} and ${number(band.levels[level - 1]?.map, 2)}`).join('; ');
    find('size-chart').innerHTML = `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="Mean AP by object size, whole image and patches ${grid}. ${text}.">${svg}</svg>`;
  }

  // One result looked into -------------------------------------------------------------------------------------------

  function crop(node, file, [x, y, width, height], ratio) {
    const image = node.querySelector('img') ?? node.appendChild(document.createElement('img'));
    image.alt = '';
    image.src = file;
    // The region's longer side fills the square; what is around it shows on the shorter side.
    const side = Math.max(width * ratio, height);
    Object.assign(image.style, {
      height: percent(1 / side), width: percent(ratio / side),
      left: percent(0.5 - ((x + width / 2) * ratio) / side), top: percent(0.5 - (y + height / 2) / side),
    });
    const [across, down] = [width * ratio / side, height / side].map((part) => (1 - part) / 2);
    image.style.clipPath = 'none';
    node.style.clipPath = `inset(${percent(down)} ${percent(across)} round 6px)`;
  }

  function drawLook() {
    const dialog = find('look');
    const one = entry();
    const known = state.open !== null && one.patches[state.open];
    if (!known) {
      if (dialog.open) dialog.close();
      playing += 1;
      return;
    }
    const picture = pictureOf(state.open);
    const ranks = one.positives.find((row) => row.picture === state.open);
    const scored = one.patches[state.open];
    const best = (upto) => scored.slice(0, upto).reduce((top, value, at, all) => (value > all[top] ? at : top), 0);
    const verdict = one.levels.flatMap((level) => level.results).find((row) => row.picture === state.open).verdict;
    find('look-title').textContent = `Query: ${one.name}. This picture: ${WORDS[verdict][2]}.`;
    const holder = find('look-pic');
    holder.replaceChildren(Object.assign(document.createElement('img'), { alt: 'The gallery picture' }));
    fit(holder, picture.width, picture.height);
    show(holder, holder.firstChild, picture.file);
    const [x1, y1, x2, y2] = one.box ?? [0, 0, one.width, one.height];
    crop(find('query-crop'), `${root}paper/${one.picture}`, [x1 / one.width, y1 / one.height, (x2 - x1) / one.width, (y2 - y1) / one.height], one.width / one.height);
    find('look-levels').replaceChildren(...data.levels.map((level, at) => {
      const row = document.createElement('tr');
      const shown = one.levels[at].results.findIndex((result) => result.picture === state.open);
      const rank = ranks?.ranks[at] ?? (shown < 0 ? null : shown + 1);
      for (const [tag, text] of [['th', level.name], ['td', number(scored[best(level.patches)], 3)], ['td', rank ?? `below ${one.levels[at].results.length}`], ['td', ranks ? iou(ranks.ious[at]) : '–']]) {
        row.append(Object.assign(document.createElement(tag), { textContent: text, scope: tag === 'th' ? 'row' : '' }));
      }
      return row;
    }));
    const [from, to] = ranks ? [ranks.ranks[0], ranks.ranks[last() - 1]] : [null, null];
    find('look-said').textContent = one.known === false ? 'The best patch is the one most like your box.' : ranks === undefined ? 'Not this object: its best patch only looks like it.'
      : to < from ? `Patches raise this picture from rank ${from} to rank ${to}.`
        : to === from ? `Rank ${to} with and without patches.` : `Patches lower this picture from rank ${from} to rank ${to}.`;
    const film = find('film');
    if (film) film.hidden = state.crop !== null;
    if (film) film.href = `${root}paper/film.webp?q=${one.id}&picture=${state.open}`;
    if (!dialog.open) dialog.showModal();
    play(picture, scored, best);
  }

  const wait = (time) => new Promise((done) => { setTimeout(done, time); });

  // The pyramid: its grids in turn, cells glowing by their similarity, the maximum climbing; then the best patch leaves
  // the picture to stand beside the query. Three seconds, once; under reduced motion the end alone.
  async function play(picture, scored, best) {
    const mine = (playing += 1);
    const holder = find('look-pic');
    const counter = find('counter');
    const rows = [...find('look-levels').children];
    const [low, high] = [Math.min(...scored), Math.max(...scored)];
    const ratio = picture.width / picture.height;
    const target = find('patch-crop');
    target.style.visibility = 'hidden';
    let first = 0;
    let top = 0;
    for (const [at, { grid }] of data.levels.entries()) {
      const patches = first + grid * grid;
      if (still.matches && at < last() - 1) { first = patches; continue; }
      holder.querySelectorAll('.cell').forEach((node) => node.remove());
      rows.forEach((row, number) => row.classList.toggle('now', number === at));
      for (let patch = first; patch < patches; patch += 1) {
        const cell = document.createElement('span');
        cell.className = 'cell';
        place(cell, cellOf(patch));
        cell.style.setProperty('--glow', (0.75 * ((scored[patch] - low) / (high - low || 1)) ** 2).toFixed(3));
        holder.append(cell);
      }
      const reached = scored[best(patches)];
      const start = performance.now();
      while (!still.matches && performance.now() - start < 520) {
        if (mine !== playing) return;
        counter.textContent = number(top + (reached - top) * Math.min(1, (performance.now() - start) / 350), 3);
        await wait(30);
      }
      top = reached;
      counter.textContent = number(top, 3);
      first = patches;
    }
    const winner = best(scored.length);
    const where = cellOf(winner);
    holder.querySelectorAll('.cell').forEach((node) => node.remove());
    const cell = document.createElement('span');
    cell.className = 'cell best';
    place(cell, where);
    holder.append(cell);
    const at = data.levels.findIndex((level) => winner < level.patches);
    rows.forEach((row, number) => row.classList.toggle('now', number === at));
    crop(target, picture.file, [where[0], where[1], where[2], where[2]], ratio);
    target.style.visibility = '';
    if (still.matches || mine !== playing) return;
    const [from, to] = [cell.getBoundingClientRect(), target.getBoundingClientRect()];
    target.animate([
      { transform: `translate(${from.left + from.width / 2 - to.left - to.width / 2}px, ${from.top + from.height / 2 - to.top - to.height / 2}px) scale(${from.height / to.height})`, zIndex: 5 },
      { transform: 'none', zIndex: 5 },
    ], { duration: 700, easing: 'cubic-bezier(.3, .1, .2, 1)' });
  }

  // What a visitor does ----------------------------------------------------------------------------------------------

  find('levels').append(...data.levels.map((level, at) => {
    const button = Object.assign(document.createElement('button'), { type: 'button', textContent: level.grid === 1 ? 'Global' : level.name });
    button.setAttribute('role', 'radio');
    button.dataset.level = at + 1;
    button.title = level.grid === 1 ? 'The whole picture only (L0)' : `L${at}: grids up to ${level.name}, ${level.patches} patches per picture`;
    return button;
  }));

  function listExamples() {
    find('examples').replaceChildren(...data.examples.map((one) => {
      const button = Object.assign(document.createElement('button'), { type: 'button', title: one.name });
      button.dataset.example = one.id;
      button.append(Object.assign(document.createElement('img'), { src: `${root}paper/${one.picture}`, alt: one.name, loading: 'lazy', width: 64, height: 48 }));
      button.setAttribute('aria-pressed', one.id === state.q);
      return button;
    }));
  }

  async function copyBibtex() {
    const entryNode = find('bibtex');
    try {
      await navigator.clipboard.writeText(entryNode.textContent);
      find('cite-said').textContent = 'Copied.';
    } catch (error) {
      getSelection().selectAllChildren(entryNode);
      find('cite-said').textContent = 'Press Ctrl+C (or Cmd+C) to copy it.';
    }
  }

  const ACTIONS = {
    theme() {
      const dark = document.documentElement.classList.toggle('dark');
      try { localStorage.setItem('patchify-theme', dark ? 'dark' : 'light'); } catch (error) { /* for this visit only */ }
    },
    bibtex: copyBibtex,
    'own-box': () => go({ crop: null }),
    replay: () => drawLook(),
    close: () => closeLook(),
  };

  function closeLook() {
    if (state.open === null) return;
    go({ open: null });
    document.querySelector(`#${opener?.list ?? 'cards-patches'} [data-picture="${opener?.picture}"] .open`)?.focus();
  }

  function another(by) {
    const at = data.examples.findIndex((one) => one.id === entry().id);
    go({ q: data.examples[(at + by + data.examples.length) % data.examples.length].id });
  }

  document.addEventListener('click', (event) => {
    const near = (selector) => event.target.closest?.(selector);
    const action = near('[data-do]')?.dataset.do;
    if (action) return ACTIONS[action]();
    if (near('[data-level]')) return go({ level: Number(near('[data-level]').dataset.level) });
    if (near('[data-example]')) return go({ q: Number(near('[data-example]').dataset.example) });
    if (near('.open')) {
      const chosen = near('.card');
      opener = { list: chosen.parentElement.id, picture: chosen.dataset.picture };
      return go({ open: Number(chosen.dataset.picture) });
    }
    if (event.target === find('look')) closeLook();  // beside it
  });
  find('look').addEventListener('cancel', (event) => { event.preventDefault(); closeLook(); });
  find('size').addEventListener('input', () => {
    const value = Number(find('size').value);
    go({ size: value ? data.sizes.length + 1 - value : 0 });
  });
  find('levels').addEventListener('keydown', (event) => {
    const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    go({ level: ((state.level - 1 + by + last()) % last()) + 1 });
    find('levels').children[state.level - 1].focus();
  });
  document.addEventListener('keydown', (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.('input, textarea, pre')) return;
    if (/^[1-9]$/.test(event.key) && Number(event.key) <= last()) go({ level: Number(event.key) });
    else if (event.key === 'ArrowRight' && state.open === null) another(1);
    else if (event.key === 'ArrowLeft' && state.open === null) another(-1);
    else if (event.key === 'p' || event.key === 'P') state.open === null ? go({ open: entry().levels[state.level - 1].results[0].picture }) : drawLook();
    else if (event.key === 'f' || event.key === 'F') document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen?.().catch(() => {});
  });
  window.addEventListener('popstate', () => { state = read(); draw(); });

  // The first view is in the page itself; the other examples come after it.
  state = read();
  const wanted = state.q;
  if (!data.examples.some((one) => one.id === wanted)) state = { ...state, q: data.first, open: null };
  listExamples();
  draw();
  document.documentElement.classList.add('drawn');
  fetch(`${root}paper/paper.json`).then((answer) => (answer.ok ? answer.json() : Promise.reject(new Error(answer.status)))).then((whole) => {
    data = { ...whole, pictures: { ...data.pictures, ...whole.pictures }, complete: true };
    state = read();
    listExamples();
    draw();
  }).catch(() => { find('examples-title').textContent = 'The other objects could not be loaded: reload the page.'; });
})();
