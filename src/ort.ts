/**
 * The one door to ONNX Runtime. It is loaded on first use (it is heavy, and most commands never
 * need it) and never before its telemetry is switched off: since 1.29 the official builds report
 * to Microsoft unless this variable is set when the library is loaded.
 */
import type * as Ort from "onnxruntime-node";

import { messageOf, UserError } from "./error.ts";

export type { Ort };

let loading: Promise<typeof Ort> | undefined;

/** onnxruntime-node, loaded once per process. */
export function loadOrt(): Promise<typeof Ort> {
  process.env.ORT_DISABLE_TELEMETRY = "1";
  loading ??= import("onnxruntime-node").then(
    // A CommonJS package: some loaders find its exports by name, others only under `default`.
    (module) => ("InferenceSession" in module ? module : module["default" as never]),
    (error: unknown) => {
      loading = undefined;
      throw new UserError(
        `ONNX Runtime could not be loaded: ${messageOf(error)}. Reinstall the dependencies with ` +
          "ONNXRUNTIME_NODE_INSTALL=skip set (the CPU library is in the package itself).",
      );
    },
  );
  return loading;
}

export interface SessionSettings {
  /** Threads of one operator (default 0: ONNX Runtime's choice, one per physical core). */
  threads?: number;
  /** Where operators run (default "cpu"); what has no kernel for webgpu runs on the CPU. */
  provider?: "cpu" | "webgpu";
  /** Folder that the locations of external tensors are relative to. */
  externalFolder?: string;
}

/**
 * Session options used everywhere. Sequential execution, since parallel halves the speed; threads
 * that sleep instead of spinning between operators, which leaves the cores to others and costs
 * nothing measurable; only errors are logged.
 */
export function sessionOptions(
  settings: SessionSettings = {},
): Ort.InferenceSession.SessionOptions {
  const { threads = 0, provider = "cpu", externalFolder } = settings;
  return {
    executionProviders: [provider],
    executionMode: "sequential",
    graphOptimizationLevel: "all",
    logSeverityLevel: 3,
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    extra: {
      session: {
        intra_op: { allow_spinning: "0" },
        inter_op: { allow_spinning: "0" },
        ...(externalFolder !== undefined && {
          model_external_initializers_file_folder_path: externalFolder,
        }),
      },
    },
  };
}
