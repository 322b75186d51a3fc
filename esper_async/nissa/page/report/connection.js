// In a report there is nobody to ask: everything is in the file.

export const isStale = () => false;
export const select = () => undefined;
export const get = () => Promise.reject(new Error("a report asks nobody"));
