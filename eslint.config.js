import js from "@eslint/js";
import { defineConfig, globalIgnores } from "eslint/config";
import tseslint from "typescript-eslint";

const nodeGlobals = {
  console: "readonly",
  process: "readonly",
  URL: "readonly",
  Buffer: "readonly",
  performance: "readonly",
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
    files: ["**/*.{js,mjs}"],
    languageOptions: { globals: nodeGlobals },
  },
  { linterOptions: { reportUnusedDisableDirectives: "error" } },
);
