"use strict";
// What the server refuses, in its words: Gradio's page shows nothing of events that do not wait in its queue.
{
  const SHOWN = 10_000; // milliseconds
  const asked = window.fetch;
  window.fetch = async (...request) => {
    const answer = await asked(...request);
    const address = String(request[0]?.url ?? request[0]);
    if (!answer.ok && address.includes("/run/predict")) answer.clone().json().then(tell, () => {});
    return answer;
  };

  function tell({error, title}) {
    if (!error) return;
    const text = new DOMParser().parseFromString(error, "text/html").body.textContent; // it comes as HTML
    const place = document.createElement("div");
    [place.className, place.role] = ["sf-refusal", "alert"];
    place.textContent = title ? `${title}: ${text}` : text;
    place.onclick = () => place.remove();
    document.querySelectorAll(".sf-refusal").forEach(each => each.remove());
    document.body.append(place);
    setTimeout(() => place.remove(), SHOWN);
  }
}
