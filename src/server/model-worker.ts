/** Entry of the thread that holds models. */
import { serveQuestions } from "./model-thread.ts";

serveQuestions();
