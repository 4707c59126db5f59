"""End with an error unless the Chromium of the page's tests starts; `make browser` calls it."""

import shutil
import sys

from playwright.sync_api import Error, sync_playwright

with sync_playwright() as p:
    try:
        p.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"]).close()
    except Error as error:
        sys.exit(f"Error: Chromium does not start: {str(error).splitlines()[0]}")
