import type { Device, DeviceOptions } from "./device.ts";

export function openCpu(_options: DeviceOptions): Promise<Device> {
  return Promise.reject(new Error("the cpu device is not built yet"));
}
