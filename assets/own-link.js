// What the script of “Your pictures” asks of the search: one of them becomes the query, the choice of index learns of them.
window.patchifyOwn = (wish, data) => trigger(wish === 'search' ? 'search' : 'known', data);
