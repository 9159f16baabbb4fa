"""The pages and the socket as a browser sees them: without the internet, under our own content security policy."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.browser import CHROMIUM, Browser
from tests.support.engine import Engine

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)")
ORDER = """{"clientOrderId": "from-a-browser", "symbol": "BTC/USDT", "side": "SIDE_BUY", "type": "ORDER_TYPE_LIMIT",
"price": "100", "quantity": "2"}"""


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Browser]:
    async with Browser(tmp_path) as browser:
        yield browser


async def test_the_page_is_there_and_places_an_order(engine: Engine, browser: Browser) -> None:
    user = await engine.user(USDT="1000")
    await browser.open(f"{engine.rest}/docs")
    await browser.until("document.querySelectorAll('.opblock').length > 20")
    assert "Trade Engine" in await browser.run("document.querySelector('.info .title').textContent")
    # Authorize with a token, as a person would.
    await browser.run("document.querySelector('.btn.authorize').click()")
    await browser.until("document.querySelector('.modal-ux input') !== null")
    await browser.run(f"""(() => {{
      const input = document.querySelector('.modal-ux input');
      Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(input, '{engine.token(user)}');
      input.dispatchEvent(new Event('input', {{bubbles: true}}));
    }})()""")
    await browser.run("document.querySelector('.modal-ux .btn.modal-btn.authorize').click()")
    await browser.run("document.querySelector('.modal-ux .btn-done').click()")
    block = "document.querySelector('#operations-order_gateway-PlaceOrder')"
    await browser.run(f"{block}.querySelector('.opblock-summary-control').click()")
    await browser.until(f"{block}.querySelector('textarea') !== null")
    await browser.run(f"""(() => {{
      const area = {block}.querySelector('textarea');
      Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, 'value').set.call(area, `{ORDER}`);
      area.dispatchEvent(new Event('input', {{bubbles: true}}));
    }})()""")
    await browser.run(f"{block}.querySelector('.btn.execute').click()")
    status = await browser.until(
        f"{block}.querySelector('.live-responses-table tbody .response-col_status')?.textContent"
    )
    assert status.startswith("200")
    assert await engine.balances(user) == {"USDT": ("800", "200")}
    assert not browser.problems, "neither errors nor breaches of the content security policy"


async def test_a_page_follows_a_book_over_the_socket(engine: Engine, browser: Browser) -> None:
    user = await engine.user(USDT="1000")
    await browser.open(f"{engine.rest}/docs")
    await browser.until("document.readyState === 'complete'")
    await browser.run(f"""(() => {{
      window.heard = [];
      window.socket = new WebSocket('{engine.rest.replace("http", "ws")}/ws');
      socket.onmessage = event => heard.push(JSON.parse(event.data));
      socket.onopen = () => socket.send('{{"op":"subscribe","channel":"book","symbol":"SOL-USDT","depth":5}}');
    }})()""")
    await browser.until("heard.some(message => message.type === 'snapshot')")
    await engine.place(user, "BUY 3 @ 7", symbol="SOL/USDT")
    await browser.until("heard.some(m => m.channel === 'book' && m.bids.some(level => level[0] === '7'))")
