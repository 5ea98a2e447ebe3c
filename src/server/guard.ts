/**
 * Who may ask, and what a page may do. A server on loopback is reachable by every web page that the
 * person has open, so being on loopback is no protection by itself:
 *
 *   Host    must name this server: otherwise another site's name that resolves to 127.0.0.1 would do
 *           (DNS rebinding)
 *   Origin  must be this server's own where a browser sends one, and no request may come cross-site
 *   token   needed where the server is open beyond loopback: listens there, or answers to a name from
 *           there; a page gets it once as ?token=…, which becomes a cookie that scripts cannot read
 */
import { timingSafeEqual } from "node:crypto";
import type { Context, MiddlewareHandler } from "hono";
import { getCookie, setCookie } from "hono/cookie";

export interface GuardOptions {
  /** Host names, without ports, that this server answers to. */
  hosts: readonly string[];
  /** Absent: nobody needs one. */
  token?: string;
}

const COOKIE = "lens_token";

/**
 * Styles may be inline: a figure of Observable Plot brings a style element with it. Scripts may not.
 */
export const CONTENT_SECURITY_POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self' 'unsafe-inline'",
  "img-src 'self' data: blob:",
  "font-src 'self'",
  "connect-src 'self'",
  "worker-src 'self'",
  "manifest-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

/** On every answer. */
export const HEADERS = {
  "Content-Security-Policy": CONTENT_SECURITY_POLICY,
  "X-Content-Type-Options": "nosniff",
  "Referrer-Policy": "no-referrer",
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Resource-Policy": "same-origin",
  "X-Frame-Options": "DENY",
};

export function guard({ hosts, token }: GuardOptions): MiddlewareHandler {
  return async (c, next) => {
    for (const [name, value] of Object.entries(HEADERS)) c.header(name, value);
    const refusal = refusalOf(c, hosts);
    if (refusal !== undefined) return c.json({ error: refusal }, 403);
    if (token !== undefined) {
      const given = c.req.query("token");
      if (given !== undefined && c.req.method === "GET" && isSame(given, token)) {
        // Out of the address, so that it is in no history, bookmark or screenshot.
        setCookie(c, COOKIE, token, { httpOnly: true, sameSite: "Strict", path: "/" });
        const url = new URL(c.req.url);
        url.searchParams.delete("token");
        // One slash: two would name another host.
        return c.redirect(url.pathname.replace(/^\/+/, "/") + url.search);
      }
      const bearer = /^Bearer (.+)$/.exec(c.req.header("Authorization") ?? "")?.[1];
      if (!isSame(bearer ?? getCookie(c, COOKIE) ?? "", token))
        return c.json(
          {
            error: "a token is needed: open the address that lens serve printed, with its ?token=",
          },
          401,
        );
    }
    await next();
  };
}

function refusalOf(c: Context, hosts: readonly string[]): string | undefined {
  const host = c.req.header("Host") ?? "";
  const name = host.replace(/:\d+$/, "").toLowerCase();
  if (!hosts.includes(name))
    return `this server does not answer to ${JSON.stringify(host)}; --allow-host adds a name`;
  const origin = c.req.header("Origin");
  if (origin !== undefined && origin !== `http://${host}` && origin !== `https://${host}`)
    return `requests from ${JSON.stringify(origin)} are not answered`;
  const site = c.req.header("Sec-Fetch-Site");
  // A link on another page may lead here; nothing else on it may ask, a frame neither.
  const isLink =
    c.req.header("Sec-Fetch-Mode") === "navigate" &&
    ["document", undefined].includes(c.req.header("Sec-Fetch-Dest")) &&
    c.req.method === "GET";
  if ((site === "cross-site" || site === "same-site") && !isLink)
    return "requests from other sites are not answered";
  return undefined;
}

function isSame(given: string, wanted: string): boolean {
  const [a, b] = [Buffer.from(given), Buffer.from(wanted)];
  return a.length === b.length && timingSafeEqual(a, b);
}
