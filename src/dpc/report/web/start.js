// What is on this page: a run, one question, or nothing that needs a script.

const payloadElement = document.getElementById("payload");
if (payloadElement) {
  const payload = readPayload(JSON.parse(payloadElement.textContent));
  const run = document.getElementById("browser");
  const one = document.getElementById("instance");
  if (run) startRun(run, payload);
  if (one) one.replaceChildren(instanceView(payload.instances[0]));
}
