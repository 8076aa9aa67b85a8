// What the page is before anything is on it: light or dark, whole or framed in another page; what Gradio's own markup
// lacks for the keyboard; and that questions leave in the order in which they were asked.
(() => {
  if (window.patchifyFrame) return;  // Gradio may put this in more than once
  window.patchifyFrame = true;
  const address = new URLSearchParams(location.search);
  if (address.get('view') === 'api') location.replace(new URL('gradio_api/openapi.json', document.baseURI));  // as on other pages of Gradio's
  const root = document.documentElement;
  root.classList.toggle('pf-embed', address.get('embed') === '1');

  // Light or dark: as the address says, else as it was left last time, else as the system has it.
  const system = matchMedia('(prefers-color-scheme: dark)');
  const kept = { get: () => null, set: () => {} };
  try {
    kept.get = () => localStorage.getItem('patchify-theme');
    kept.set = (value) => localStorage.setItem('patchify-theme', value);
    kept.get();
  } catch (error) {
    kept.get = () => null;  // a browser that keeps nothing for a page inside another one
    kept.set = () => {};
  }
  const wanted = () => [address.get('theme'), address.get('__theme'), kept.get()].find((one) => one === 'dark' || one === 'light');

  function paint(choice) {
    const dark = choice ? choice === 'dark' : system.matches;
    document.body.classList.toggle('dark', dark);
    root.style.colorScheme = dark ? 'dark' : 'light';
  }
  paint(wanted());
  system.addEventListener('change', () => paint(wanted()));  // after Gradio's own, which knows nothing of a choice

  // Gradio changes the address of a picture in place, and the browser shows the former one until the new one is there: what
  // is drawn on it, boxes and all, waits for the picture that it belongs to.
  const PICTURES = '.pf-pic img, .pf-stage img';
  const arrived = (image) => image.closest('.pf-pic, .pf-stage')?.classList.remove('is-loading');
  function awaitPicture(image) {
    if (!image.complete) image.closest('.pf-pic, .pf-stage').classList.add('is-loading');
  }
  new MutationObserver((changes) => {
    for (const { type, target, oldValue, addedNodes } of changes) {
      if (type === 'attributes') {
        if (target.matches(PICTURES) && oldValue !== target.getAttribute('src')) awaitPicture(target);
      } else {
        for (const node of addedNodes) {
          if (node.nodeType !== Node.ELEMENT_NODE) continue;
          if (node.matches(PICTURES)) awaitPicture(node);
          node.querySelectorAll(PICTURES).forEach(awaitPicture);
        }
      }
    }
  }).observe(document, { subtree: true, childList: true, attributes: true, attributeFilter: ['src'], attributeOldValue: true });
  for (const kind of ['load', 'error']) document.addEventListener(kind, (event) => event.target.matches?.(PICTURES) && arrived(event.target), true);

  // Without leave to write the clipboard, the entry stands selected, so that Ctrl+C takes it.
  async function cite(button) {
    const entry = document.querySelector('#pf-cite pre');
    const said = button.parentElement.querySelector('[role="status"]');
    try {
      await navigator.clipboard.writeText(entry.textContent);
      said.textContent = 'Copied.';
    } catch (error) {
      entry.closest('details').open = true;
      getSelection().selectAllChildren(entry);
      said.textContent = 'Press Ctrl+C (or Cmd+C) to copy it.';
    }
  }

  document.addEventListener('click', (event) => {
    const opens = event.target.closest?.('[data-tab]');
    if (opens) {
      document.getElementById(`pf-tab-${opens.dataset.tab}-button`)?.click();
      window.scrollTo({ top: 0 });
    }
    const copy = event.target.closest?.('[data-do="bibtex"]');
    if (copy) cite(copy);
    if (event.target.closest?.('[data-do="theme"]')) {
      const choice = document.body.classList.contains('dark') ? 'light' : 'dark';
      address.delete('theme');
      address.delete('__theme');
      kept.set(choice);
      paint(choice);
    }
    // Gradio's base address has no parameters: without this, a link within the page would load it again without them.
    const link = event.target.closest?.('a[href^="#"]');
    if (link) {
      event.preventDefault();
      const goal = document.getElementById(link.getAttribute('href').slice(1));
      if (goal && !goal.offsetParent) document.getElementById('pf-tab-search-button')?.click();  // it is in the first tab
      goal?.scrollIntoView({ behavior: matchMedia('(prefers-reduced-motion: reduce)').matches ? 'auto' : 'smooth' });
      if (goal && link.matches('.pf-skip')) goal.querySelector('button')?.focus({ preventScroll: true });
    }
  });

  // Chromium lets Tab stop at a list that scrolls, and Gradio takes the list away then, and the focus with it.
  document.addEventListener('keydown', (event) => {
    if (event.key !== 'Tab') return;
    for (const list of document.querySelectorAll('ul[role="listbox"]')) list.tabIndex = -1;
  }, true);

  // The server answers a visitor's questions in the order in which they come in. Gradio sends each on its own, and of
  // two fast clicks the second may come in first: the first would be answered last, and stay.
  const plainFetch = window.fetch.bind(window);
  let before = Promise.resolve();
  window.fetch = (what, options) => {
    const where = String(what?.url ?? what);
    if (options?.method !== 'POST' || !/\/queue\/join(\?|$)/.test(where)) return plainFetch(what, options);
    const taken = before.then(() => plainFetch(what, options));
    before = taken.catch(() => {});  // one that fails must not hold up those after it
    return taken;
  };

  // Arrow keys between tabs, as everywhere else.
  document.addEventListener('keydown', (event) => {
    const tab = event.target.closest?.('[role="tab"]');
    if (!tab || event.altKey || event.ctrlKey || event.metaKey) return;
    const tabs = [...tab.parentElement.querySelectorAll('[role="tab"]')].filter((one) => !one.disabled && one.offsetParent);
    const at = tabs.indexOf(tab);
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = tabs[(to + tabs.length) % tabs.length];
    next.focus();
    next.click();
  });
})();
