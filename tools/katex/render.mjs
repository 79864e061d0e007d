// Reads {"display": [...], "inline": [...], "optional": [...], "word": [...]} from stdin, LaTeX strings each, and writes
// {"version": ..., "display": {latex: html}, ...} to stdout. Strict: what KaTeX merely dislikes is an error. "optional" is
// display mode for what other people printed: a line of an aligned display is put back into one. "word" is inline mode
// for a word of prose with a backslash. What does not parse there gives null; elsewhere it gives exit status 1 with one
// line an error on stderr.
import { readFileSync } from "node:fs";
import katex from "katex";

const OPTIONS = { output: "htmlAndMathml", strict: "error", throwOnError: true, trust: false };
const wanted = JSON.parse(readFileSync(0, "utf8"));
const errors = [];

function display(latex) {
  return katex.renderToString(latex, { ...OPTIONS, displayMode: true });
}

function inline(latex) {
  return katex.renderToString(latex, { ...OPTIONS, displayMode: false });
}

function optional(latex) {
  const line = latex.replace(/\\\\\s*$/, "").trim();
  for (const attempt of [line, `\\begin{aligned}${line}\\end{aligned}`]) {
    try {
      return display(attempt);
    } catch (error) {
      if (!(error instanceof katex.ParseError)) throw error;
    }
  }
  return null;
}

function word(latex) {
  try {
    return inline(latex);
  } catch (error) {
    if (!(error instanceof katex.ParseError)) throw error;
    return null;
  }
}

function all(latexes, render) {
  const rendered = {};
  for (const latex of latexes) {
    try {
      rendered[latex] = render(latex);
    } catch (error) {
      errors.push(`${JSON.stringify(latex)}: ${error.message}`);
    }
  }
  return rendered;
}

const result = {
  version: katex.version,
  display: all(wanted.display, display),
  inline: all(wanted.inline, inline),
  optional: all(wanted.optional, optional),
  word: all(wanted.word, word),
};
if (errors.length) {
  process.stderr.write(errors.join("\n") + "\n");
  process.exitCode = 1;
} else {
  process.stdout.write(JSON.stringify(result));
}
