// Package browser tests the page of package status in a real browser.
//
// It is a module of its own, because nothing else needs what drives a browser. It needs
// Chromium, or another browser that FORWARD_CHROMIUM names. With FORWARD_SCREENSHOTS, a
// directory, it leaves pictures of the page there.
package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/heapprofiler"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/secretscan"
)

func TestMain(m *testing.M) { os.Exit(secretscan.Main(m)) }

// slack is what limits of time are multiplied by, for a busy machine.
const slack = 5

// tab is a tab of a browser.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu      sync.Mutex
	faults  []string // errors in the console, and requests for other hosts
	allowed []string // parts of faults that the test causes
}

// open opens a page in a new browser. The end of the test checks that the page has had
// no fault, and has no secret anywhere.
func open(t *testing.T, at string) *tab {
	t.Helper()
	path := os.Getenv("FORWARD_CHROMIUM")
	if path == "" {
		var err error
		path, err = exec.LookPath("chromium")
		require.NoError(t, err, "this test needs Chromium")
	}
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.Flag("mute-audio", true), chromedp.WindowSize(1280, 900))...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	b := &tab{t: t, ctx: ctx}
	host, err := url.Parse(at)
	require.NoError(t, err)
	require.NoError(t, chromedp.Listen(ctx, func(ev any) { b.hear(host.Host, ev) }))
	for _, enable := range []func() error{
		func() error { _, err := chromedp.Call(ctx, log.Enable, cdp.Empty{}); return err },
		func() error { _, err := chromedp.Call(ctx, network.Enable, network.EnableParams{}); return err },
	} {
		require.NoError(t, enable())
	}
	t.Cleanup(b.check)
	b.do(chromedp.Navigate(at))
	return b
}

// hear notes what the page must not do. Text that the Content-Security-Policy forbids is
// in the log as an error.
func (b *tab) hear(host string, ev any) {
	fault := ""
	switch ev := ev.(type) {
	case *runtime.EventConsoleAPICalled:
		fault = fmt.Sprintf("console: %s", ev.Type)
		for _, a := range ev.Args {
			fault += " " + string(a.Value) + a.Description
		}
	case *runtime.EventExceptionThrown:
		fault = "exception: " + ev.ExceptionDetails.Text
		if e := ev.ExceptionDetails.Exception; e != nil {
			fault += " " + e.Description
		}
	case *log.EventEntryAdded:
		if ev.Entry.Level == log.EntryLevelError || ev.Entry.Level == log.EntryLevelWarning {
			fault = fmt.Sprintf("log: %s %s", ev.Entry.Text, ev.Entry.URL)
		}
	case *network.EventRequestWillBeSent:
		if u, err := url.Parse(ev.Request.URL); err != nil || u.Host != host && u.Scheme != "data" && u.Scheme != "blob" {
			fault = "request: " + ev.Request.URL
		}
		secretscan.Check("request", ev.Request.URL)
	}
	if fault == "" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.ContainsFunc(b.allowed, func(part string) bool { return strings.Contains(fault, part) }) {
		b.faults = append(b.faults, fault)
	}
}

// allow lets faults that contain a text pass.
func (b *tab) allow(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.allowed = append(b.allowed, text)
}

// check fails the test if the page had a fault or holds a secret.
func (b *tab) check() {
	b.mu.Lock()
	require.Empty(b.t, b.faults)
	b.mu.Unlock()
	if b.t.Failed() {
		return
	}
	secretscan.Check("page", eval[string](b, `document.documentElement.outerHTML + location.href + document.cookie
		+ JSON.stringify({...localStorage}) + JSON.stringify({...sessionStorage}) + JSON.stringify(history.state)
		+ [...document.querySelectorAll("input:not([name=token])")].map((e) => e.value).join(" ")`))
}

func (b *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	require.NoError(b.t, chromedp.Do(b.ctx, steps...))
}

// eval returns the value of an expression.
func eval[T any](b *tab, js string) T {
	b.t.Helper()
	text, err := chromedp.Run(b.ctx, chromedp.Evaluate[string]("JSON.stringify("+js+")"))
	require.NoError(b.t, err, js)
	var v T
	require.NoError(b.t, json.Unmarshal([]byte(text), &v), "%s is %s", js, text)
	return v
}

// await waits until an expression is true, and returns how long that took.
func (b *tab) await(js string, limit time.Duration) time.Duration {
	b.t.Helper()
	begin := time.Now()
	for !eval[bool](b, "!!("+js+")") {
		if time.Since(begin) > slack*limit {
			b.shot("failed")
			require.Fail(b.t, "not in time", "%s: %s", js, eval[string](b, "document.body.innerText"))
		}
		b.do(chromedp.Sleep(20 * time.Millisecond))
	}
	return time.Since(begin)
}

// keys types, as a keyboard does, into what has the focus.
func (b *tab) keys(keys string) {
	b.t.Helper()
	b.do(chromedp.KeyEvent(keys))
}

// size makes the window another, with a scale as of a phone.
func (b *tab) size(width, height int64, scale float64) {
	b.t.Helper()
	_, err := chromedp.Call(b.ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: width, Height: height, DeviceScaleFactor: scale, Mobile: width < 500,
	})
	require.NoError(b.t, err)
}

// prefers sets a media feature, such as prefers-color-scheme.
func (b *tab) prefers(name, value string) {
	b.t.Helper()
	_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: name, Value: value}}})
	require.NoError(b.t, err)
}

// heap is the size of the page's JavaScript heap and of its buffers, without garbage. From
// then on requests are not looked at: the browser would keep a record of each in the heap.
func (b *tab) heap() float64 {
	b.t.Helper()
	_, err := chromedp.Call(b.ctx, network.Disable, cdp.Empty{})
	require.NoError(b.t, err)
	for range 2 {
		_, err := chromedp.Call(b.ctx, heapprofiler.CollectGarbage, cdp.Empty{})
		require.NoError(b.t, err)
	}
	u, err := chromedp.Call(b.ctx, runtime.GetHeapUsage, cdp.Empty{})
	require.NoError(b.t, err)
	return u.UsedSize + u.EmbedderHeapUsedSize + u.BackingStorageSize
}

// shot leaves a picture of the whole page, if somebody wants to see it.
func (b *tab) shot(name string) {
	dir := os.Getenv("FORWARD_SCREENSHOTS")
	if dir == "" {
		return
	}
	png, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	require.NoError(b.t, err)
	require.NoError(b.t, os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644))
}
