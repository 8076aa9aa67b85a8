// The table of configurations: sorted, filtered and drawn here, so that nothing has to be asked of the server for it.
const MOST_BARS = 12;  // more would not be read
const chosen = { study: '', words: '', column: 'map', down: true };
const find = (selector) => element.querySelector(selector);
const all = (selector) => [...element.querySelectorAll(selector)];

function make(tag, name, text) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  return node;
}

function dataset() {
  return find('.pf-lab').dataset.dataset;
}

function cell(row, column) {
  const at = all('th[data-column]').findIndex((head) => head.dataset.column === column);
  return row.children[at];
}

function number(row, column) {
  const value = cell(row, column).dataset.v;
  return value === '' ? null : Number(value);
}

function isShown(row) {
  if (row.dataset.dataset !== dataset()) return false;
  if (chosen.study && !row.dataset.studies.split(' ').includes(chosen.study)) return false;
  const text = `${row.textContent} ${row.dataset.label}`.toLowerCase();  // both as it is called and as it is written
  return chosen.words.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

// Rows without a value come last whichever way it is sorted; equal ones stay in the order of the files.
function sorted(rows) {
  const head = all('th[data-column]').find((one) => one.dataset.column === chosen.column);
  if (!head) return [...rows].sort((a, b) => a.dataset.order - b.dataset.order);
  const numeric = head.dataset.kind === 'number';
  const value = (row) => cell(row, chosen.column).dataset.v;
  const sign = chosen.down ? -1 : 1;
  return [...rows].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === '' || y === '') return (x === '') - (y === '') || a.dataset.order - b.dataset.order;
    const by = numeric ? Number(x) - Number(y) : x.localeCompare(y, 'en', { numeric: true });
    return sign * by || a.dataset.order - b.dataset.order;
  });
}

function mark(rows) {
  for (const column of ['map', 'locscore']) {
    const values = rows.map((row) => number(row, column)).filter((value) => value !== null);
    const best = Math.max(...values);
    for (const row of all('tbody tr')) {
      const is = !row.hidden && values.length > 0 && number(row, column) === best;
      cell(row, column).classList.toggle('is-best', is);
      if (is) cell(row, column).title = 'best of those shown';
      else cell(row, column).removeAttribute('title');
    }
  }
}

// A chart of horizontal bars of the first rows, in the table's order; a dashed line where the global baseline is.
function chart(title, column, rows) {
  const there = rows.filter((row) => number(row, column) !== null);
  const best = Math.max(...there.map((row) => number(row, column)));
  const bars = there.slice(0, MOST_BARS);
  const base = all('tbody tr[data-baseline]').find((row) => row.dataset.dataset === dataset());
  const line = base ? number(base, column) : null;
  const top = Math.min(1, Math.ceil(10 * Math.max(best, line || 0) + 0.2) / 10);
  const figure = make('figure', 'pf-hchart');
  figure.append(make('figcaption', '', title));
  const list = make('div', 'pf-hbars');
  list.setAttribute('role', 'img');
  list.setAttribute('aria-label', `${title} of ${bars.length} configurations, from ${Math.min(...bars.map((row) => number(row, column))).toFixed(3)} to ${Math.max(...bars.map((row) => number(row, column))).toFixed(3)}`);
  for (const row of bars) {
    const value = number(row, column);
    const spread = Number(cell(row, column).dataset.spread || 0);
    const node = make('div', 'pf-hbar');
    node.classList.toggle('is-best', value === best);
    node.classList.toggle('is-base', 'baseline' in row.dataset);
    const name = make('span', 'pf-hname', shortLabel(row));
    name.title = row.dataset.title;
    const track = make('span', 'pf-htrack');
    const fill = make('i');
    fill.style.width = `${(100 * value) / top}%`;
    track.append(fill);
    if (spread) {
      const whisker = make('u');
      whisker.style.left = `${(100 * (value - spread)) / top}%`;
      whisker.style.width = `${(200 * spread) / top}%`;
      track.append(whisker);
    }
    if (line !== null) {
      const dash = make('s');
      dash.style.left = `${(100 * line) / top}%`;
      track.append(dash);
    }
    node.append(name, track, make('b', '', value.toFixed(3)));
    list.append(node);
  }
  figure.append(list);
  const unless = usual.length ? `Unless stated otherwise: ${usual.join(', ')}. ` : '';
  const more = there.length > MOST_BARS ? `First ${MOST_BARS} of ${there.length} rows, in table order. ` : '';
  figure.append(make('p', 'pf-note', `${unless}${more}Scale 0 to ${top.toFixed(1)}.${line === null ? '' : ` Dashed: global baseline, ${line.toFixed(3)}.`}`));
  return figure;
}

// What tells the rows on the screen apart: parts that most of them share are left out, and said below the chart.
let usual = [];
function parts(row) {
  return row.dataset.title.split(' · ');
}
function shortLabel(row) {
  const left = parts(row).filter((part) => !usual.includes(part));
  return left.length ? left.join(' · ') : parts(row)[0];
}
function findUsual(rows) {
  const counts = new Map();
  for (const part of rows.flatMap(parts)) counts.set(part, (counts.get(part) || 0) + 1);
  usual = [...counts.keys()].filter((part) => rows.length > 1 && counts.get(part) > rows.length / 2);
}

function draw() {
  const body = find('.pf-trials tbody');
  if (!body) return;
  const order = sorted(body.rows);
  if ([...body.rows].some((row, at) => row !== order[at])) {
    const kept = document.activeElement;
    body.append(...order);
    if (kept && element.contains(kept)) kept.focus({ preventScroll: true });
  }
  for (const row of order) row.hidden = !isShown(row);
  const rows = order.filter((row) => !row.hidden);
  const inDataset = order.filter((row) => row.dataset.dataset === dataset());
  find('.pf-count').textContent = `${rows.length} of ${inDataset.length} configurations`;
  find('.pf-none').hidden = rows.length > 0;
  for (const head of all('th[data-column]')) {
    const is = head.dataset.column === chosen.column;
    head.setAttribute('aria-sort', is ? (chosen.down ? 'descending' : 'ascending') : 'none');
  }
  mark(rows);
  findUsual(rows);
  const charts = find('.pf-hcharts');
  charts.replaceChildren(...(rows.length ? [chart('mAP', 'map', rows), chart('LocScore', 'locscore', rows)] : []));
}

function pick(row, scroll) {
  for (const one of all('.pf-pick')) one.setAttribute('aria-pressed', String(row.contains(one)));
  window.patchifyLookMoves = scroll;
  trigger('look', { id: row.dataset.id });
}

function quoted(text) {
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

// What is on the screen, as it is sorted and filtered, with all digits.
function save() {
  const heads = all('th[data-column]').map((head) => head.dataset.column);
  const lines = [['dataset', ...heads, 'map_spread', 'locscore_spread']];
  for (const row of all('tbody tr').filter((one) => !one.hidden)) {
    const values = heads.map((name) => cell(row, name).dataset.v);
    lines.push([row.dataset.dataset, ...values, cell(row, 'map').dataset.spread || '', cell(row, 'locscore').dataset.spread || '']);
  }
  const text = lines.map((line) => line.map(quoted).join(',')).join('\r\n');
  const link = make('a');
  link.href = URL.createObjectURL(new Blob([`${text}\r\n`], { type: 'text/csv' }));
  link.download = `patchify-${dataset()}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

element.addEventListener('click', (event) => {
  const head = event.target.closest('th[data-column]');
  if (head) {
    const numeric = head.dataset.kind === 'number';
    chosen.down = chosen.column === head.dataset.column ? !chosen.down : numeric;
    chosen.column = head.dataset.column;
    return draw();
  }
  if (event.target.closest('[data-do="csv"]')) return save();
  const row = event.target.closest('tbody tr');
  if (row) pick(row, true);
});

element.addEventListener('input', (event) => {
  const filter = event.target.dataset.filter;
  if (filter) chosen[filter] = event.target.value;
  if (event.target.name === 'pf-dataset') {
    find('.pf-lab').dataset.dataset = event.target.value;
    draw();
    const like = all('tbody tr').find((row) => !row.hidden && !('baseline' in row.dataset)) || all('tbody tr').find((row) => !row.hidden);
    const before = all('.pf-pick').find((one) => one.getAttribute('aria-pressed') === 'true')?.closest('tr');
    const same = before && all('tbody tr').find((row) => !row.hidden && row.dataset.label === before.dataset.label);
    if (same || like) pick(same || like, false);
    return;
  }
  draw();
});

// The files may have changed since the tab was opened last: the same choices, over the new rows.
function begin() {
  if (!find('.pf-trials')) return;
  all('tbody tr').forEach((row, at) => { row.dataset.order = at; });
  for (const filter of all('[data-filter]')) filter.value = chosen[filter.dataset.filter];
  draw();
}
watch('value', begin);
begin();
