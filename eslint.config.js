import js from "@eslint/js";
import { defineConfig, globalIgnores } from "eslint/config";
import svelte from "eslint-plugin-svelte";
import tseslint from "typescript-eslint";

const nodeGlobals = {
  console: "readonly",
  process: "readonly",
  URL: "readonly",
  Buffer: "readonly",
  performance: "readonly",
  fetch: "readonly",
  setTimeout: "readonly",
};

export default defineConfig(
  // AssemblyScript looks like TypeScript but has its own types and its own compiler.
  globalIgnores(["dist/", "runs/", "coverage/", "models/", "src/device/assembly/"]),
  js.configs.recommended,
  {
    files: ["**/*.ts"],
    extends: [tseslint.configs.recommendedTypeChecked],
    languageOptions: {
      parserOptions: { project: "./tsconfig.test.json", tsconfigRootDir: import.meta.dirname },
    },
    rules: {
      "@typescript-eslint/no-floating-promises": "error",
      "@typescript-eslint/no-unused-vars": [
        "error",
        { argsIgnorePattern: "^_", varsIgnorePattern: "^_" },
      ],
      // Literals and enums are numbers in messages all the time.
      "@typescript-eslint/restrict-template-expressions": [
        "error",
        { allowNumber: true, allowBoolean: true },
      ],
      // An async function without await keeps an interface's shape and turns throws into rejections.
      "@typescript-eslint/require-await": "off",
      // Indexing is checked by invariants, not by the compiler; `!` says so where a type demands it.
      "@typescript-eslint/no-non-null-assertion": "off",
    },
  },
  {
    files: ["lens/**/*.ts"],
    languageOptions: {
      parserOptions: { project: "./lens/tsconfig.json", tsconfigRootDir: import.meta.dirname },
    },
  },
  // Components are checked for types by svelte-check; here for what it does not see.
  svelte.configs.recommended,
  {
    files: ["lens/**/*.svelte", "lens/**/*.svelte.ts"],
    languageOptions: { parserOptions: { parser: tseslint.parser, project: false } },
    extends: [tseslint.configs.disableTypeChecked],
    rules: {
      // The compiler knows types and globals; it warns of unused ones itself.
      "no-undef": "off",
      "no-unused-vars": "off",
      // Addresses are hashes, made by link().
      "svelte/no-navigation-without-resolve": "off",
      // Collections that are replaced whole, not changed, need no reactive kind.
      "svelte/prefer-svelte-reactivity": "off",
      // A space in braces is how one keeps it from being formatted away.
      "svelte/no-useless-mustaches": "off",
      // svelte-check sees which of them are used.
      "svelte/no-unused-svelte-ignore": "off",
      // A figure is put into an element that has no other children.
      "svelte/no-dom-manipulating": "off",
    },
  },
  {
    files: ["**/*.{js,mjs}"],
    languageOptions: { globals: nodeGlobals },
  },
  { linterOptions: { reportUnusedDisableDirectives: "error" } },
);
