# Installs Debian's Chromium for the tests that open the site, where this user may; says so loudly where not.
set -eu
for name in chromium-headless-shell chrome-headless-shell chromium chromium-browser google-chrome google-chrome-stable; do
    if command -v "$name" >/dev/null 2>&1; then exit 0; fi
done
if [ -n "${FLATLIB_BROWSER:-}" ]; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing Chromium for the site's tests"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq || true
    for package in chromium-headless-shell chromium; do
        if apt-get install -y -qq --no-install-recommends "$package" >/dev/null; then exit 0; fi
    done
fi
echo "*** No Chromium here: the tests that open the site in a browser will be SKIPPED." >&2
echo "*** Remedy: install it (Debian: sudo apt-get install chromium-headless-shell, or chromium), or set FLATLIB_BROWSER to a browser's path." >&2
