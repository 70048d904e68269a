/** What `make check` says of the JavaScript; the page itself is not built and depends on nothing. */

import js from "@eslint/js";
import globals from "globals";

export default [
	{ ignores: [".venv*/", "build/", "comparison/"] },
	js.configs.recommended,
	{
		files: ["static/**", "pushlab/**", "examples/**"],
		languageOptions: { globals: globals.browser },
		rules: {
			"eqeqeq": ["error", "always", { null: "ignore" }], // == null: neither null nor undefined
			"no-implicit-globals": "error",
			"no-unused-vars": ["error", { argsIgnorePattern: "^_", varsIgnorePattern: "^_" }],
			"no-use-before-define": ["error", { functions: false, classes: false, variables: false }],
			"no-var": "error",
			"object-shorthand": "error",
			"prefer-const": "error",
		},
	},
	{ files: ["bench/**"], languageOptions: { sourceType: "commonjs", globals: globals.node } },
];
