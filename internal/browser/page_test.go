package browser

import (
	"bytes"
	"fmt"
	"image"
	"image/png"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

const (
	tabKey, enter, escape = "\t", "\r", "\x1b"

	destination = `document.querySelector(".destination")`
	video       = `document.querySelector("video")`
	behind      = `(() => { const v = ` + video + `, b = v.buffered; return b.length ? b.end(b.length - 1) - v.currentTime : 99 })()`
)

// login logs in, as somebody with a keyboard does.
func (b *tab) login() {
	b.t.Helper()
	b.await(`document.activeElement.id === "token"`, 2*time.Second)
	b.keys(token + enter)
	b.await(`!dashboard.hidden`, 2*time.Second)
}

// picture is what the video shows.
func (b *tab) picture() image.Image {
	b.t.Helper()
	text, err := chromedp.Run(b.ctx, chromedp.Screenshot(chromedp.CSS("video")))
	require.NoError(b.t, err)
	img, err := png.Decode(bytes.NewReader(text))
	require.NoError(b.t, err)
	return img
}

// differ counts the pixels that differ.
func differ(one, other image.Image) (n int) {
	for y := range min(one.Bounds().Dy(), other.Bounds().Dy()) {
		for x := range min(one.Bounds().Dx(), other.Bounds().Dx()) {
			if one.At(x, y) != other.At(x, y) {
				n++
			}
		}
	}
	return n
}

// isYellow reports whether the third bar of the clip is there.
func isYellow(img image.Image) bool {
	size := img.Bounds().Size()
	r, g, b, _ := img.At(size.X*135/320, size.Y*40/180).RGBA()
	return r > 0xb000 && g > 0xb000 && b < 0x5000
}

func TestPictureMoves(t *testing.T) {
	t.Parallel()
	h := newHouse(t, 1)
	h.encode("h264_aac.flv")
	b := open(t, h.url())
	b.login()
	begin := time.Now()
	b.do(chromedp.Reload())
	b.await(video+`?.getVideoPlaybackQuality().totalVideoFrames > 0`, 2*time.Second)
	first := b.picture()
	for ; !isYellow(first); first = b.picture() {
		require.Less(t, time.Since(begin), slack*2*time.Second)
	}
	t.Logf("picture after %v", time.Since(begin))
	shown := eval[float64](b, video+".currentTime")
	b.await(fmt.Sprintf("%s.currentTime > %f", video, shown+0.2), time.Second)
	require.Greater(t, differ(first, b.picture()), 200)
	require.Greater(t, eval[float64](b, video+".currentTime"), shown)
	require.Less(t, eval[float64](b, behind), 3.0)
	b.shot("picture")

	// It stops and begins again by its button.
	b.do(chromedp.Click(chromedp.CSS(".picture-toggle")))
	b.await(video+`.readyState === 0`, time.Second)
	b.do(chromedp.Sleep(1500 * time.Millisecond)) // an update of the page does not begin it
	require.True(t, eval[bool](b, video+`.readyState === 0`))
	b.do(chromedp.Click(chromedp.CSS(".picture-toggle")))
	b.await(video+`.currentTime > 0`, 2*time.Second)

	// A page that nobody sees asks for nothing.
	b.do(chromedp.Evaluate[chromedp.Void](`Object.defineProperty(document, "hidden", { value: true, configurable: true }),
		document.dispatchEvent(new Event("visibilitychange"))`))
	b.await(video+`.readyState === 0`, time.Second)
	b.do(chromedp.Evaluate[chromedp.Void](`performance.clearResourceTimings()`)) // with a request that was cut off
	b.do(chromedp.Sleep(2500 * time.Millisecond))
	require.Zero(t, eval[int](b, `performance.getEntriesByType("resource").filter((e) => e.name.includes("status.json")).length`))
	b.do(chromedp.Evaluate[chromedp.Void](`delete document.hidden, document.dispatchEvent(new Event("visibilitychange"))`))
	b.await(video+`.currentTime > 0`, 2*time.Second)
}

func TestPageSaysThatTheBrowserLacksTheCodec(t *testing.T) {
	t.Parallel()
	h := newHouse(t, 1)
	h.publish("hevc_aac.flv")
	b := open(t, h.url())
	b.login()
	if eval[bool](b, `MediaSource.isTypeSupported('video/mp4; codecs="hvc1.1.6.L60.90"')`) {
		b.await(video+`.currentTime > 0`, 2*time.Second)
		return
	}
	b.await(`document.querySelector(".picture-note")?.textContent.includes("cannot decode HEVC")`, 2*time.Second)
	b.shot("no-codec")
}

// looks reports whether the state of the first destination has the colour of a level.
func (b *tab) looks(level string) bool {
	want := map[string]string{"good": "rgb(14, 102, 54)", "bad": "rgb(161, 23, 23)"}[level]
	return want == eval[string](b, `getComputedStyle(`+destination+`.querySelector(".badge")).color`)
}

func TestKilledDestinationIsRed(t *testing.T) {
	t.Parallel()
	h := newHouse(t, 2)
	h.encode("h264_aac.flv")
	b := open(t, h.url())
	b.prefers("prefers-color-scheme", "light")
	b.login()
	text := destination + `?.textContent`
	b.await(text+`.includes("Publishing")`, 3*time.Second)
	require.True(t, b.looks("good"))
	b.do(chromedp.Evaluate[chromedp.Void](destination + `.querySelector(".end").focus()`))

	h.slaves[0].kill()
	took := b.await(destination+`.dataset.level === "bad"`, 3*time.Second)
	t.Logf("red after %v", took)
	require.True(t, b.looks("bad"))
	require.Regexp(t, "Lost|Reconnecting", eval[string](b, text))
	b.await(text+`.includes("attempt")`, 3*time.Second)
	b.await(`announce.textContent.includes("Lost") || announce.textContent.includes("Reconnecting")`, 5*time.Second)
	require.Contains(t, eval[string](b, "document.title"), "(1)")
	b.shot("red")

	h.slaves[0].begin(h.slaves[0].addr)
	b.await(destination+`.dataset.level === "good"`, 10*time.Second)
	require.True(t, b.looks("good"))
	require.True(t, eval[bool](b, `document.activeElement === `+destination+`.querySelector(".end")`), "the focus has stayed")
}

// tabTo presses the tab key until an element has the focus.
func (b *tab) tabTo(selector string) {
	b.t.Helper()
	for range 40 {
		if eval[bool](b, `!!document.activeElement?.matches("`+selector+`")`) {
			return
		}
		b.keys(tabKey)
	}
	require.Fail(b.t, "not reached", selector)
}

func TestOperatorWithAKeyboard(t *testing.T) {
	t.Parallel()
	h := newHouse(t, 1)
	added, replaced := &slave{t: t}, &slave{t: t}
	added.begin(anyPort)
	replaced.begin(anyPort)
	h.encode("h264_only.flv")
	b := open(t, h.url())
	b.allow("401 (Unauthorized)")
	b.allow("400 (Bad Request)")
	b.await(`document.activeElement.id === "token"`, 2*time.Second)
	b.keys("wrong" + enter)
	b.await(`document.getElementById("login-why").textContent.includes("not a token")`, 2*time.Second)
	b.login()
	b.await(destination, 2*time.Second)
	rows := `document.querySelectorAll(".destination").length`

	b.tabTo(".add")
	b.keys(enter)
	b.await(`document.activeElement.id === "d-url"`, time.Second)
	b.keys("no address" + enter)
	b.await(`document.querySelector("#edit .problem").textContent`, 2*time.Second)
	b.do(chromedp.Evaluate[chromedp.Void](`document.getElementById("d-url").select()`))
	b.keys("rtmp://" + added.addr + "/live" + tabKey + "key-" + secretscan.Canary + enter)
	b.await(`!edit.open && `+rows+` === 2`, 3*time.Second)
	b.await(`document.querySelectorAll("[data-level=good]").length >= 2`, 3*time.Second)
	require.Eventually(t, func() bool { return len(added.srv.Sources()) == 1 }, slack*time.Second, 10*time.Millisecond)
	require.True(t, eval[bool](b, `document.activeElement.matches(".add")`), "the focus is back")
	require.Empty(t, eval[string](b, `document.getElementById("d-key").value`))

	b.tabTo(".destination:nth-child(2) .replace")
	b.keys(enter)
	b.await(`document.activeElement.id === "d-url"`, time.Second)
	b.keys("rtmp://" + replaced.addr + "/live/key-" + secretscan.Canary + enter)
	b.await(`!edit.open && document.body.textContent.includes("`+replaced.addr+`") && !streams.textContent.includes("`+added.addr+`")`, 12*time.Second)

	b.tabTo(".destination:nth-child(2) .end")
	b.keys(enter)
	b.await(`document.querySelector("#confirm").open`, time.Second)
	b.shot("end")
	b.keys(escape)
	b.await(`!document.querySelector("#confirm").open`, time.Second)
	require.Equal(t, 2, eval[int](b, rows))
	b.keys(enter)
	b.tabTo("#confirm [type=submit]")
	b.keys(enter)
	b.await(rows+` === 1`, 5*time.Second)
	require.NotEqual(t, "BODY", eval[string](b, `document.activeElement.tagName`), "the focus is not lost")

	b.do(chromedp.Click(chromedp.CSS("#logout")))
	b.await(`dashboard.hidden && document.activeElement.id === "token"`, 2*time.Second)
	require.Empty(t, eval[string](b, `streams.textContent`))
}

// contrast is the least contrast of a text with what is under it, as WCAG counts it.
const contrast = `(() => {
	const parse = (c) => c.match(/[\d.]+/g).map(Number);
	const light = (c) => { const [r, g, b] = c.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b };
	const under = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] === 1) return c.slice(0, 3) } return [255, 255, 255] };
	let least = [99, ""];
	for (const e of document.querySelectorAll("main *, header *, dialog *")) {
		if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !e.checkVisibility() || e.closest(".picture")) continue;
		const [a, b] = [light(parse(getComputedStyle(e).color).slice(0, 3)), light(under(e))];
		const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
		if (ratio < least[0]) least = [ratio, e.className + ": " + e.textContent];
	}
	return least;
})()`

func TestPageFitsAPhoneAndTheDark(t *testing.T) {
	t.Parallel()
	h := newHouse(t, 2)
	h.slaves[0].kill()
	h.encode("h264_aac.flv")
	b := open(t, h.url())
	b.await(`!login.hidden`, 2*time.Second)
	for _, scheme := range []string{"light", "dark"} {
		b.prefers("prefers-color-scheme", scheme)
		b.shot("login-" + scheme)
	}
	b.login()
	b.await(destination+`?.dataset.level === "bad" && document.querySelector("[data-level=good]")`, 3*time.Second)
	b.do(chromedp.Click(chromedp.CSS("#events summary")))
	b.await(`document.querySelector("#events li")`, 3*time.Second)
	for _, scheme := range []string{"light", "dark"} {
		b.prefers("prefers-color-scheme", scheme)
		dark := eval[string](b, `getComputedStyle(document.body).backgroundColor`) == "rgb(15, 20, 26)"
		require.Equal(t, scheme == "dark", dark)
		for name, width := range map[string]int64{"narrow": 320, "phone": 390, "tablet": 800, "wide": 1280} {
			b.size(width, 844, 1)
			require.LessOrEqual(t, eval[int64](b, `document.documentElement.scrollWidth`), width, name)
			least := eval[[2]any](b, contrast)
			require.GreaterOrEqual(t, least[0], 4.5, "%s, %s: %s", scheme, name, least[1])
			b.shot(name + "-" + scheme)
		}
		b.size(320, 844, 1)
		b.do(chromedp.Click(chromedp.CSS(".add")))
		b.await(`edit.open`, time.Second)
		require.LessOrEqual(t, eval[int](b, `document.documentElement.scrollWidth`), 320)
		least := eval[[2]any](b, contrast)
		require.GreaterOrEqual(t, least[0], 4.5, "%s: %s", scheme, least[1])
		b.shot("add-" + scheme)
		b.keys(escape)
	}
	// A reader of the screen finds what there is by its names.
	require.Zero(t, eval[int](b, `[...document.querySelectorAll("button, input")].filter((e) => e.checkVisibility() && !e.textContent.trim() && !e.labels?.length && !e.ariaHidden).length`))
	require.Equal(t, "1 2 2 3 4 4", eval[string](b, `[...document.querySelectorAll("h1, h2, h3, h4")].filter((e) => e.checkVisibility()).map((e) => e.tagName[1]).sort().join(" ")`))
}

func TestPageSurvivesARestart(t *testing.T) {
	t.Parallel()
	h := newHouse(t, 1)
	h.encode("h264_aac.flv")
	b := open(t, h.url())
	b.allow("ERR_")
	b.allow("401 (Unauthorized)")
	b.login()
	b.await(destination, 2*time.Second)
	b.await(video+`.currentTime > 0`, 2*time.Second)
	h.end()
	b.await(`connection.textContent.includes("No connection")`, 3*time.Second)
	b.shot("no-connection")
	h.begin(h.rtmp, h.web, forward.Config{Resolver: forward.MustStatic(h.slaves[0].addr)})
	h.encode("h264_aac.flv")
	b.await(`document.getElementById("login-why").textContent.includes("restarted")`, 5*time.Second)
	b.login()
	b.await(destination+`?.dataset.level === "good"`, 5*time.Second)
	b.await(video+`.currentTime > 0`, 3*time.Second)
}

// The page of an encoder that loops for two minutes (FORWARD_BROWSER_TIME is another
// time) does not grow and stays near the live edge.
func TestPageDoesNotGrow(t *testing.T) {
	t.Parallel()
	length := 2 * time.Minute
	if text := os.Getenv("FORWARD_BROWSER_TIME"); text != "" {
		var err error
		length, err = time.ParseDuration(text)
		require.NoError(t, err)
	}
	h := newHouse(t, 2)
	h.encode("h264_aac.flv")
	b := open(t, h.url())
	b.login()
	b.do(chromedp.Click(chromedp.CSS("#events summary")))
	b.await(video+`?.currentTime > 0`, 2*time.Second)
	// What is kept, such as the samples of a sparkline, is there after a quarter.
	b.do(chromedp.Sleep(length / 4))
	before, nodes := b.heap(), eval[int](b, `document.querySelectorAll("*").length`)
	worst, shown := 0.0, eval[float64](b, video+".currentTime")
	begin := time.Now()
	for end := begin.Add(length * 3 / 4); time.Now().Before(end); b.do(chromedp.Sleep(250 * time.Millisecond)) {
		worst = max(worst, eval[float64](b, behind))
		kept := eval[float64](b, `(() => { const b = `+video+`.buffered; return b.length ? b.end(b.length - 1) - b.start(0) : 0 })()`)
		require.Less(t, kept, 30.0, "seconds of video are kept")
	}
	after := b.heap()
	t.Logf("heap %.2f to %.2f MB in %v, at most %.2f s behind", before/1e6, after/1e6, length, worst)
	require.Less(t, worst, 3.0)
	require.InDelta(t, time.Since(begin).Seconds(), eval[float64](b, video+".currentTime")-shown, 3)
	require.Less(t, after, before+1e6)
	require.InDelta(t, nodes, eval[int](b, `document.querySelectorAll("*").length`), 60)
	require.Less(t, len(strings.Fields(eval[string](b, `document.querySelector("polyline").getAttribute("points")`))), 121)
	// The server sees one player, and media is as far as what was played.
	require.Equal(t, 1, h.srv.Stats().Players)
}
