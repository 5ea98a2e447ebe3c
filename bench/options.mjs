import { parseArgs } from "node:util";

export const SECTIONS = [
  "peak",
  "topk",
  "batchTopk",
  "jumprelu",
  "matryoshka",
  "reference",
  "scaling",
  "encode",
  "strain",
  "data",
  "mixing",
];

const HELP = `npm run bench -- [options]

  --only LIST       some of ${SECTIONS.join(",")}
  --rounds N        turns of three steps for each competitor of a table of steps; default: 3, with --quick 1
  --quick           fewer turns and a smaller scaling table: minutes instead of most of an hour
  --python PATH     the Python that has the peers (bench/requirements.txt); default: python3
  --threads N       threads of every competitor; default: 2
  --markdown PAGE   also write the tables between the markers of this page
`;

/** The command line's options; ends the process with the help, or with what is wrong. */
export function readOptions() {
  let values;
  try {
    ({ values } = parseArgs({
      options: {
        only: { type: "string", default: SECTIONS.join(",") },
        rounds: { type: "string" },
        quick: { type: "boolean", default: false },
        python: { type: "string", default: "python3" },
        threads: { type: "string", default: "2" },
        markdown: { type: "string" },
        help: { type: "boolean", default: false },
      },
    }));
  } catch (error) {
    stop(`${error.message}\n\n${HELP}`, 1);
  }
  if (values.help) stop(HELP, 0);
  const only = values.only.split(",");
  const unknown = only.filter((name) => !SECTIONS.includes(name));
  if (unknown.length > 0) stop(`--only: there is no ${unknown.join(", ")}\n\n${HELP}`, 1);
  const whole = (name, value) => {
    const number = Number(value);
    if (!(Number.isInteger(number) && number > 0))
      stop(`--${name} must be a whole number from 1; got ${value}`, 1);
    return number;
  };
  const rounds = whole("rounds", values.rounds ?? (values.quick ? "1" : "3"));
  return { ...values, only, rounds, threads: whole("threads", values.threads) };
}

function stop(text, code) {
  (code === 0 ? process.stdout : process.stderr).write(text.trimEnd() + "\n");
  process.exit(code);
}
