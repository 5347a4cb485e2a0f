// Portkey 1.15.2 adds headers to what `fetch` gives it, which Node refuses for streams: they get headers of their own.
const plain = globalThis.fetch;
globalThis.fetch = async (...asked) => {
  const { body, status, statusText, headers } = await plain(...asked);
  return new Response(body, { status, statusText, headers: new Headers(headers) });
};
