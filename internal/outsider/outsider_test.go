package outsider

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/hosttest"
	"github.com/rtmp-forward/forward/internal/logtest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

func TestMain(m *testing.M) { os.Exit(secretscan.Main(m)) }

const (
	canary = secretscan.Canary // part of every secret
	token  = "operator-" + canary
)

func TestOutsiderImportsOnlyThePublicPackage(t *testing.T) {
	const module = "github.com/rtmp-forward/forward"
	out, err := exec.Command("go", "list", "-f", `{{join .Imports "\n"}}`, ".").Output()
	require.NoError(t, err)
	imports := strings.Fields(string(out))
	require.Contains(t, imports, module)
	for _, p := range imports {
		if p != module {
			require.NotContains(t, p, ".", "only the standard library besides")
		}
	}
}

// backend answers a Resolver inside the process.
type backend struct {
	status int
	urls   []string
	ttl    float64
	asked  int
}

func (b *backend) client(t *testing.T) *http.Client {
	return &http.Client{Transport: hosttest.RoundTripper(func(r *http.Request) (*http.Response, error) {
		b.asked++
		var q question
		require.NoError(t, json.NewDecoder(r.Body).Decode(&q))
		require.Equal(t, []string{"__defaultVhost__", "live"}, []string{q.Vhost, q.App})
		require.NotEmpty(t, q.ClientID)
		answer, err := json.Marshal(reply{b.urls, b.ttl})
		require.NoError(t, err)
		return &http.Response{StatusCode: b.status, Status: http.StatusText(b.status), Body: io.NopCloser(strings.NewReader(string(answer)))}, nil
	})}
}

func urlOf(n int) string { return fmt.Sprintf("rtmp://dest/live/%s%d", canary, n) }

func urls(src *forward.Source) (all []string) {
	for _, f := range src.Forwarders() {
		if !f.Ending() {
			all = append(all, f.Destination().URL)
		}
	}
	return all
}

func TestResolverOfAHost(t *testing.T) {
	var log logtest.Warnings
	b := &backend{status: 200, urls: []string{urlOf(1)}, ttl: 60}
	r := &Resolver{URL: "http://backend.example/forward?token=" + canary, Client: b.client(t)}
	hosttest.InBubble(t, forward.Config{Resolver: r, Logger: log.Logger(), FirstMediaTimeout: -1, ReadTimeout: -1}, func(bubble *hosttest.Bubble) {
		dest := bubble.Destination("dest:1935")
		bubble.Publish("live/s")
		bubble.Published(dest, 1)
		src := bubble.Server.Sources()[0]
		require.Equal(t, []string{urlOf(1)}, urls(src))

		b.urls = []string{urlOf(1), urlOf(2)}
		bubble.Published(dest, 2) // asked again when the TTL has expired
		require.Equal(t, []string{urlOf(1), urlOf(2)}, urls(src))
		require.Equal(t, 2, b.asked)

		b.status = 500 // a live stream stays as it is
		require.ErrorContains(t, src.Refresh(bubble.Ctx), "backend answered")
		require.Equal(t, []string{urlOf(1), urlOf(2)}, urls(src))
		require.Len(t, log.Take("backend failed"), 1)

		require.NoError(t, src.Shutdown(bubble.Ctx)) // and its next publisher gets the previous destinations
		bubble.Publish("live/s")
		require.Equal(t, []string{urlOf(1), urlOf(2)}, urls(bubble.Server.Sources()[0]))

		_, err := bubble.Client("live/other").Publish(bubble.Ctx)
		require.Error(t, err)
		b.status = 403
		_, err = bubble.Client("live/refused").Publish(bubble.Ctx)
		var status *forwardtest.StatusError
		require.ErrorAs(t, err, &status)
		require.Equal(t, "The backend refuses the stream.", status.Description)
		require.EqualValues(t, 1, bubble.Server.Stats().Refused)
	})
}

// A publisher cannot choose an address inside the network.
func TestResolverOfAHostDoesNotTrustThePublisher(t *testing.T) {
	b := &backend{status: 200, urls: []string{"rtmp://10.0.0.7/live/s", "rtmp://10.0.0.8/live/s"}}
	r := &Resolver{URL: "http://backend.example/", Client: b.client(t)}
	ds, err := r.ResolveDestinations(t.Context(), &forward.Request{
		ClientID: "c", Vhost: forward.DefaultVhost, App: "live", Stream: "s", Param: "?to=10.0.0.7",
	})
	require.NoError(t, err)
	require.Equal(t, []bool{true, false}, []bool{ds[0].Untrusted, ds[1].Untrusted})
}

func TestResolverOfAHostIsBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Resolver{URL: "http://backend.example/", Client: hosttest.Replying(time.Second, `{"urls":[]}`, nil)}
		results := make(chan error, maxQuestions+1)
		for range maxQuestions + 1 {
			go func() {
				_, err := r.ResolveDestinations(t.Context(), hosttest.Request())
				results <- err
			}()
		}
		synctest.Wait()
		require.ErrorIs(t, <-results, forward.ErrBusy)
		for range maxQuestions {
			require.NoError(t, <-results)
		}
	})
}

func TestControlOfAHost(t *testing.T) {
	control := new(Control)
	hosttest.InBubble(t, forward.Config{Hooks: control.Hooks(forward.Hooks{})}, func(b *hosttest.Bubble) {
		handler := control.Handler(b.Server, token)
		do := func(ctx context.Context, method, path, body, auth string) *httptest.ResponseRecorder {
			r := httptest.NewRequestWithContext(ctx, method, path, strings.NewReader(body))
			r.Header.Set("Authorization", auth)
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			secretscan.Check(t.Name(), w.Result().Header, w.Body)
			return w
		}
		must := func(status int, method, path, body string, into any) {
			t.Helper()
			w := do(b.Ctx, method, path, body, "Bearer "+token)
			require.Equal(t, status, w.Code, w.Body)
			if into != nil {
				require.NoError(t, json.Unmarshal(w.Body.Bytes(), into))
			}
		}
		require.Equal(t, 401, do(b.Ctx, "GET", "/streams", "", "Bearer x").Code)

		ctx, cancel := context.WithCancel(b.Ctx)
		heard := make(chan string, 1)
		go func() { heard <- do(ctx, "GET", "/events", "", "Bearer "+token).Body.String() }()
		synctest.Wait()

		dest := b.Destination("dest:1935")
		p := b.Publish("live/s")
		type shown struct {
			ID           string
			Stream       string
			Destinations []struct{ ID, URL, State string }
		}
		var streams []shown
		must(200, "GET", "/streams", "", &streams)
		require.Len(t, streams, 1)
		require.Regexp(t, "^live/#", streams[0].Stream)
		stream := "/streams/" + streams[0].ID

		// Add.
		must(201, "POST", stream+"/destinations", `{"url":"`+urlOf(1)+`"}`, nil)
		must(409, "POST", stream+"/destinations", `{"url":"`+urlOf(1)+`"}`, nil)
		must(400, "POST", stream+"/destinations", `{"url":"http://`+canary+`"}`, nil)
		must(404, "POST", "/streams/x/destinations", `{"url":"`+urlOf(1)+`"}`, nil)
		b.Published(dest, 1)
		must(200, "GET", "/streams", "", &streams)
		first := streams[0].Destinations[0]
		require.Equal(t, "rtmp://dest/live/***", first.URL)
		require.Equal(t, "publishing", first.State)

		// Replace, at the next keyframe.
		sent := make(chan error, 1)
		media := forwardtest.Media{}
		go func() { sent <- p.Send(b.Ctx, media.Messages(10*time.Second), 1) }()
		must(200, "PUT", stream+"/destinations/"+first.ID, `{"url":"`+urlOf(2)+`"}`, nil)
		require.NoError(t, <-sent)
		require.Equal(t, []string{urlOf(2)}, urls(b.Server.Sources()[0]))
		must(200, "GET", "/streams", "", &streams)
		require.Len(t, streams[0].Destinations, 1)
		second := streams[0].Destinations[0]
		require.NotEqual(t, first.ID, second.ID)

		// Remove.
		must(404, "DELETE", stream+"/destinations/"+first.ID, "", nil)
		must(204, "DELETE", stream+"/destinations/"+second.ID, "", nil)
		must(200, "GET", "/streams", "", &streams)
		require.Empty(t, streams[0].Destinations)
		must(204, "POST", stream+"/refresh", "", nil)

		src := b.Server.Sources()[0]
		p.Close()
		<-src.Done()
		synctest.Wait()
		cancel()
		var events []string
		for line := range strings.Lines(<-heard) {
			var e struct{ Stream, Destination, State string }
			require.NoError(t, json.Unmarshal([]byte(line), &e))
			require.Equal(t, streams[0].ID, e.Stream)
			events = append(events, strings.TrimSpace(e.Destination+" "+e.State))
		}
		require.Equal(t, []string{
			"live", first.ID + " connecting", first.ID + " handshaking", first.ID + " publishing",
			second.ID + " publishing", second.ID + " draining", second.ID + " closed", "ended",
		}, events)
	})
}
