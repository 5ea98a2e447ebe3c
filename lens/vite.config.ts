import { fileURLToPath } from "node:url";
import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";

/** The dashboard. `vite dev` in this folder serves it with the API of a `lens serve` at its usual port. */
export default defineConfig({
  root: fileURLToPath(new URL(".", import.meta.url)),
  // Relative, so that a static site may lie in any folder of a web host.
  base: "./",
  plugins: [svelte()],
  resolve: {
    alias: { "#platform": fileURLToPath(new URL("../src/platform.node.ts", import.meta.url)) },
  },
  build: {
    outDir: "../dist/dashboard",
    emptyOutDir: true,
    target: "es2022",
    modulePreload: { polyfill: false },
    // Figures and the map are loaded when they are first looked at.
    chunkSizeWarningLimit: 1200,
  },
  server: { proxy: { "/api": { target: "http://127.0.0.1:7171", changeOrigin: true } } },
});
