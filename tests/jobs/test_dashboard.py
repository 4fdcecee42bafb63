"""How the tests wait for a page in a browser: pages of Ray's dashboard load anew while they are waited for."""

from selenium.webdriver.common.by import By

from tests.jobs.dashboard import await_page, chromium

LOADING = """data:text/html,<body>before</body><script>
  const body = document.body;
  body.remove();
  setTimeout(() => { body.textContent = 'after'; document.documentElement.append(body); }, 2000);
</script>"""


def test_a_page_without_a_body_is_one_that_is_still_loading():
    with chromium() as browser:
        browser.get(LOADING.replace("\n", " "))
        assert not browser.find_elements(By.TAG_NAME, "body")
        assert await_page(browser, lambda text: text) == "after"
