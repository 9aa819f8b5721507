package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
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
	"github.com/rtmp-forward/forward/resolve"
	"github.com/rtmp-forward/forward/srs"
)

// A server's whole life with every kind of failure: no log line, error or answer of the
// control handler contains a secret.
func TestCanary(t *testing.T) {
	log := new(logtest.Buffer)
	debug := &slog.HandlerOptions{Level: slog.LevelDebug}
	logger := secretscan.Logger(slog.NewJSONHandler(log, debug))
	old := slog.Default()
	slog.SetDefault(secretscan.Logger(slog.NewTextHandler(log, debug)))
	defer slog.SetDefault(old)

	note := func(what string, err error) { fmt.Fprintln(log, what, secretscan.Prints(err)) }
	answers := func(body string, err error) *http.Client {
		return &http.Client{Transport: transport(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}, err
		})}
	}
	const backendURL = "http://u:" + canary + "@backend/?t=" + canary
	var network forwardtest.Network
	backends := map[string]forward.DestinationResolver{
		"down":     &resolve.HTTP{URL: backendURL, Client: answers("", errors.New("connection refused"))},
		"nonsense": &resolve.HTTP{URL: backendURL, Client: answers(`{"code":"`+canary+`"}`, nil)},
		"bad-urls": &resolve.HTTP{URL: backendURL, Client: answers(`{"code":0,"data":{"urls":["rtmp://`+canary+`\u0000/a/b"]}}`, nil)},
		"private":  &resolve.HTTP{URL: backendURL, Client: answers(`{"code":0,"data":{"urls":["rtmp://10.0.0.1/live/`+canary+`"]}}`, nil)},
		"open":     &resolve.HTTP{URL: backendURL, Client: answers("", errors.New("down")), OnFailure: resolve.FailOpen, Secret: canary},
	}
	to := func(host string) forward.Destination {
		return forward.Destination{URL: "rtmp://u:" + canary + "@" + host + "/live?t=" + canary, StreamKey: canary + "?t=" + canary}
	}
	cfg := forward.Config{
		Logger: logger, MergeWindow: -1,
		Resolver: forward.ResolverFunc(func(ctx context.Context, req *forward.Request) ([]forward.Destination, error) {
			if r := backends[req.App]; r != nil {
				return r.ResolveDestinations(ctx, req)
			}
			switch req.App {
			case "unresolved":
				return nil, fmt.Errorf("nothing about %s%s", req.Stream, req.Param)
			case "unworded":
				return nil, &forward.StatusError{Description: "no " + req.Stream}
			}
			tls := to("tls.example")
			tls.URL = "rtmps" + strings.TrimPrefix(tls.URL, "rtmp")
			return []forward.Destination{to("ok.example"), to("refuses.example"), to("kicks.example"), to("down.example"), tls}, nil
		}),
		PublishAuth: func(string) (forward.Secret, bool) { return canary, true },
		Hooks: forward.Hooks{
			OnPublish: func(_ context.Context, req *forward.Request) error {
				logger.Info("asked", "req", req)
				switch req.App {
				case "refused":
					return errors.New("there is no " + req.Stream + req.Param)
				case "worded":
					return &forward.StatusError{Code: "No", Description: "There is no " + req.Stream + req.Param + " at " + req.TcURL}
				case "panics":
					panic("host")
				}
				return nil
			},
			OnPlay: func(_ context.Context, req *forward.Request) error {
				logger.Info("asked", "req", req)
				if req.App == "refused" {
					return &forward.StatusError{Description: "no " + req.Stream + " for " + req.PageURL}
				}
				return nil
			},
			OnConnect: func(_ context.Context, req *forward.Request) error {
				logger.Info("asked", "req", req)
				if req.App == "unconnected" {
					return &forward.StatusError{Description: "no " + req.TcURL}
				}
				return nil
			},
			OnForward: func(f *forward.Forwarder, state forward.State, err error) {
				logger.Info("forward", "f", f, "state", state, "err", err)
				note("forward", err)
			},
		},
	}
	cfg.Dial = network.Dial
	synctest.Test(t, func(t *testing.T) {
		repeats := forwardtest.Step{Refuse: "NetStream.Publish.BadName", Description: "no " + canary + "?t=" + canary + " here"}
		dests := []*forwardtest.Destination{
			network.NewDestination("ok.example:1935"),
			network.NewDestination("refuses.example:1935", forwardtest.Script{Steps: map[string]forwardtest.Step{"publish": repeats}}),
			network.NewDestination("kicks.example:1935", forwardtest.Script{At: map[int]func(*forwardtest.Session){
				3: func(s *forwardtest.Session) { s.Status("NetStream.Publish.Denied", canary) }}}),
			network.NewDestination("tls.example:443"),
		}
		s := forward.NewServer(hosttest.Watched(t, cfg))
		l, err := network.Listen("server:1935")
		require.NoError(t, err)
		go s.Serve(l)
		client := func(app, password string) forwardtest.Client {
			return forwardtest.Client{URL: "rtmp://server/" + app + "/" + canary + "?token=" + canary, Dial: network.Dial, User: canary, Password: password}
		}
		for _, app := range []string{"down", "nonsense", "bad-urls", "private", "open", "refused", "worded", "unconnected", "unresolved", "unworded", "panics"} {
			p, err := client(app, canary).Publish(t.Context())
			note("publish", err)
			if p != nil {
				defer p.Close()
			}
		}
		_, err = client("refused", canary).Play(t.Context(), nil)
		require.Equal(t, "NetStream.Play.Failed", forwardtest.RefusalCode(err))
		_, err = s.Publish(t.Context(), forward.Request{App: "worded", Stream: canary, Param: "?t=" + canary, PageURL: canary})
		require.ErrorAs(t, err, new(*forward.StatusError))
		note("publish here", errors.New(err.Error()))
		_, err = client("live", "wrong").Publish(t.Context())
		require.Error(t, err)
		pub, err := client("live", canary).Publish(t.Context())
		require.NoError(t, err)
		_, err = client("live", canary).Publish(t.Context())
		require.Equal(t, "NetStream.Publish.BadName", forwardtest.RefusalCode(err))
		player, err := client("live", canary).Play(t.Context(), nil)
		require.NoError(t, err)
		require.NoError(t, pub.Send(t.Context(), steady.Messages(2*time.Second), 1))

		h := hosttest.ControlHandler(s, canary)
		ask := func(token, method, path, body string) string {
			r := httptest.NewRequest(method, path, strings.NewReader(body))
			r.Header.Set("Authorization", "Bearer "+token)
			r.Header.Set("Content-Type", "application/json")
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			fmt.Fprintf(log, "%v %s\n", w.Header(), w.Body)
			return w.Body.String()
		}
		src := s.Source("live/" + canary)
		require.NotNil(t, src)
		at := "/sources/" + src.ID()
		require.Contains(t, ask(canary, "GET", "/sources", ""), "refuses.example")
		ask("no"+canary, "GET", "/sources", "")
		ask(canary, "GET", "/sources/"+canary, "")
		ask(canary, "GET", "/"+canary, "")
		for _, body := range []string{
			`{"url":"rtmp://down.example/live","stream_key":"` + canary + `2"}`, `{"url":"` + canary + `"}`,
			`{"` + canary + `":1}`, `{"url":"rtmp://h/` + canary + `\n"}`, canary, `{"url":"rtmp://127.0.0.1/live/` + canary + `3"}`,
		} {
			ask(canary, "POST", at+"/forwarders", body)
		}
		ask(canary, "POST", at+"/refresh", "")
		fid := src.Forwarders()[0].ID()
		ask(canary, "PUT", at+"/forwarders/"+fid, `{"url":"rtmp://down.example/live/`+canary+`4"}`)
		synctest.Wait()
		note("update", src.Forwarders()[0].Update(t.Context(), to("down.example:1936")))
		note("forward", second(src.Forward(forward.Destination{URL: canary})))
		for _, f := range src.Forwarders() {
			fmt.Fprintln(log, secretscan.Prints(f), secretscan.Prints(f.Stats()))
			note("last", f.Stats().LastErr)
		}
		ask(canary, "DELETE", at, "")
		player.Close()
		pub.Close()
		s.Close()
		for _, d := range dests {
			d.Close()
		}
	})
	malformed := "rtmp://u:" + canary + "@h:x/a/" + canary + "?t=" + url.QueryEscape(canary)
	for _, err := range append(malformedBeside(malformed), second(forward.Static(malformed))) {
		require.Error(t, err)
		note("config", err)
	}

	out := log.String()
	for _, want := range []string{"refuses.example", "kicks.example", "down.example", "tls.example", "panic", "backend failed", "10.0.0.1", "unauthorized", "wrong user"} {
		require.Contains(t, out, want, "the scenario did not reach this")
	}
	for line := range strings.Lines(out) {
		if at := strings.Index(line, canary); at >= 0 {
			t.Errorf("leaked: %.400s", line[max(at-150, 0):])
		}
	}
}

// malformedBeside returns the errors of all functions that accept URLs, for a malformed one.
func malformedBeside(url string) []error {
	_, err := srs.ParseConfig("c", []byte("vhost v { forward { destination "+url+"; } }"))
	return []error{
		err, (&resolve.HTTP{URL: url}).Validate(), (&resolve.DNS{URL: url}).Validate(),
		(&srs.Hooks{URLs: srs.HookURLs{OnPlay: []string{url}}}).Validate(),
	}
}

func second[T any](_ T, err error) error { return err }
