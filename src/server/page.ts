/** The dashboard's files: what the build put into one folder, and nothing else. */
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";
import type { MiddlewareHandler } from "hono";

const TYPES: Record<string, string> = {
  html: "text/html; charset=utf-8",
  js: "text/javascript; charset=utf-8",
  css: "text/css; charset=utf-8",
  json: "application/json",
  svg: "image/svg+xml",
  png: "image/png",
  woff2: "font/woff2",
  webmanifest: "application/manifest+json",
};

export const DASHBOARD = fileURLToPath(new URL("../../dist/dashboard/", import.meta.url));

interface File {
  type: string;
  etag: string;
  isHashed: boolean;
  plain: Buffer<ArrayBuffer>;
  gzip: Buffer<ArrayBuffer> | undefined;
  br: Buffer<ArrayBuffer> | undefined;
}

/**
 * Serves the files that are in the folder when the server starts, by their exact names: a request can
 * name nothing else, whatever it looks like. Compressed once. Undefined where there is no dashboard.
 */
export function pageFiles(folder = DASHBOARD): MiddlewareHandler | undefined {
  if (!existsSync(join(folder, "index.html"))) return undefined;
  const known = new Map<string, string>();
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true }))
    if (entry.isFile()) {
      const path = join(entry.parentPath ?? entry.path, entry.name);
      known.set(`/${relative(folder, path).split(sep).join("/")}`, path);
    }
  const loaded = new Map<string, File>();
  return async (c, next) => {
    const name = c.req.path === "/" ? "/index.html" : c.req.path;
    const path = known.get(name);
    if (path === undefined || (c.req.method !== "GET" && c.req.method !== "HEAD")) return next();
    const file = loaded.get(name) ?? load(path, name);
    loaded.set(name, file);
    c.header("Content-Type", file.type);
    c.header("ETag", file.etag);
    c.header("Vary", "Accept-Encoding");
    c.header("Cache-Control", file.isHashed ? "public, max-age=31536000, immutable" : "no-cache");
    if (c.req.header("If-None-Match") === file.etag) return c.body(null, 304);
    const accepted = c.req.header("Accept-Encoding") ?? "";
    const encoding = /\bbr\b/.test(accepted) && file.br ? "br" : /\bgzip\b/.test(accepted) && file.gzip ? "gzip" : undefined; // prettier-ignore
    if (encoding === undefined) return c.body(file.plain);
    c.header("Content-Encoding", encoding);
    return c.body(file[encoding]!);
  };
}

function load(path: string, name: string): File {
  const plain = readFileSync(path);
  const ending = name.slice(name.lastIndexOf(".") + 1);
  const type = TYPES[ending] ?? "application/octet-stream";
  const isText = /text|json|svg|manifest/.test(type);
  const quality = { params: { [constants.BROTLI_PARAM_QUALITY]: 6 } };
  return {
    type,
    etag: `"${createHash("sha256").update(plain).digest("base64url").slice(0, 16)}"`,
    isHashed: name.startsWith("/assets/"),
    plain,
    gzip: isText ? gzipSync(plain) : undefined,
    br: isText ? brotliCompressSync(plain, quality) : undefined,
  };
}
