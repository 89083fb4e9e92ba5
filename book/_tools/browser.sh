# Installs Debian's Chromium for the tests that open the site, where this user may; says so loudly where not.
set -eu
for name in chromium chromium-browser google-chrome google-chrome-stable; do
    if command -v "$name" >/dev/null 2>&1; then exit 0; fi
done
if [ -n "${FLATLIB_BROWSER:-}" ]; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing Chromium for the site's tests"
    if apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; then
        exit 0
    fi
fi
echo "*** No Chromium here: the tests that open the site in a browser will be SKIPPED." >&2
echo "*** Remedy: install chromium (Debian: sudo apt-get install chromium), or set FLATLIB_BROWSER to a browser's path." >&2
