/** Where the console lies, as the service told in `<base href>`: `/console`, or that behind a proxy's path. */
const document_ = new URL(globalThis.document?.baseURI ?? "http://localhost/console/");

/** `/console` without a slash at its end. */
export const base = document_.pathname.replace(/\/[^/]*$/, "");

/** What stands before `/api/v1`: the origin and a proxy's path. */
export const apiRoot = `${document_.origin}${base.replace(/\/console$/, "")}`;
