package e2e

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nareix/joy4/av"
	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/hosttest"
	"github.com/rtmp-forward/forward/internal/rtmptest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// reentry is a Server whose host calls one of its methods, once, from host code that
// the Server calls.
type reentry struct {
	*testing.T
	net   *forwardtest.Network
	srv   *forward.Server
	cfg   forward.Config     // of srv
	other *forward.Publisher // publishes live/other, inside the process
	sub   *forward.Subscription

	place string // the place from which the method is called
	skip  atomic.Int64
	call  func(r *reentry)

	ready    atomic.Bool // other and sub have been created
	fired    atomic.Bool
	returned chan struct{}
	took     time.Duration
}

// at is called by the host's code at each place.
func (r *reentry) at(place string) {
	if place != r.place || !r.ready.Load() || r.skip.Add(-1) >= 0 || r.fired.Swap(true) {
		return
	}
	defer close(r.returned)
	began := time.Now()
	r.call(r)
	r.took = time.Since(began)
}

// sources are live/s, if it is live, and live/other.
func (r *reentry) sources(f func(src *forward.Source)) {
	for _, src := range r.srv.Sources() {
		f(src)
	}
	f(r.other.Source())
}

func (r *reentry) forwarders(f func(fwd *forward.Forwarder)) {
	r.sources(func(src *forward.Source) {
		for _, fwd := range src.Forwarders() {
			f(fwd)
		}
	})
}

// hostListener and hostConn report each method call.
type (
	hostListener struct {
		net.Listener
		r *reentry
		_ func() // not comparable
	}
	hostConn struct {
		net.Conn
		r *reentry
	}
	hostAddr struct {
		net.Addr
		r *reentry
	}
	hostError struct{ r *reentry }
	hostLog   struct {
		slog.Handler
		r *reentry
	}
)

func (l hostListener) Accept() (net.Conn, error) {
	l.r.at("Listener.Accept")
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return hostConn{nc, l.r}, nil
}

func (l hostListener) Close() error   { l.r.at("Listener.Close"); return l.Listener.Close() }
func (l hostListener) Addr() net.Addr { l.r.at("Listener.Addr"); return l.Listener.Addr() }

func (c hostConn) Read(p []byte) (int, error)  { c.r.at("Conn.Read"); return c.Conn.Read(p) }
func (c hostConn) Write(p []byte) (int, error) { c.r.at("Conn.Write"); return c.Conn.Write(p) }
func (c hostConn) Close() error                { c.r.at("Conn.Close"); return c.Conn.Close() }
func (c hostConn) CloseWrite() error {
	c.r.at("Conn.CloseWrite")
	return c.Conn.(interface{ CloseWrite() error }).CloseWrite()
}
func (c hostConn) RemoteAddr() net.Addr {
	c.r.at("Conn.RemoteAddr")
	return hostAddr{c.Conn.RemoteAddr(), c.r}
}
func (c hostConn) SetReadDeadline(t time.Time) error {
	c.r.at("Conn.SetReadDeadline")
	return c.Conn.SetReadDeadline(t)
}
func (c hostConn) SetWriteDeadline(t time.Time) error {
	c.r.at("Conn.SetWriteDeadline")
	return c.Conn.SetWriteDeadline(t)
}

func (a hostAddr) String() string { a.r.at("Addr.String"); return a.Addr.String() }

func (e hostError) Error() string { e.r.at("error.Error"); return "unreachable" }

func (h hostLog) Handle(_ context.Context, rec slog.Record) error {
	h.r.at("Logger " + rec.Message)
	rec.Attrs(func(a slog.Attr) bool { _ = a.Value.Resolve().String(); return true })
	return nil
}
func (h hostLog) Enabled(context.Context, slog.Level) bool { h.r.at("Logger.Enabled"); return true }
func (h hostLog) WithAttrs([]slog.Attr) slog.Handler       { h.r.at("Logger.WithAttrs"); return h }
func (h hostLog) WithGroup(string) slog.Handler            { return h }

// places are those that a test must reach.
var places = []string{
	"OnConnect", "OnPublish", "OnUnpublish", "OnPlay", "OnStop", "OnClose", "OnSource", "OnCodecChange",
	"OnForward connecting", "OnForward handshaking", "OnForward publishing", "OnForward waiting", "OnForward stalled", "OnForward draining", "OnForward closed",
	"Resolver", "Resolver of a refresh", "PublishAuth", "Retry", "Dial", "DialContext",
	"Listener.Accept", "Listener.Close", "Listener.Addr",
	"Conn.Read", "Conn.Write", "Conn.Close", "Conn.CloseWrite", "Conn.RemoteAddr", "Conn.SetReadDeadline", "Conn.SetWriteDeadline",
	"Addr.String", "error.Error",
	"Logger.Enabled", "Logger.WithAttrs", "Logger publish", "Logger unpublish", "Logger destination lost", "Logger destination publishing",
	"Logger refresh", "Logger connection ended", "Logger publisher has the stream", "Logger codec changed", "Logger destination draining",
	"Logger control", "Logger panic in host code", "Logger reload: needs a restart",
}

// brief is the context of calls that wait for media: none arrives while its publisher
// waits for the hook.
func brief() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 500*time.Millisecond)
}

func request(r *reentry, method, path string) {
	req := httptest.NewRequest(method, path, nil)
	req.Header.Set("Authorization", "Bearer token")
	hosttest.ControlHandler(r.srv, "token").ServeHTTP(httptest.NewRecorder(), req)
}

var background = context.Background()

// methods are all methods that a host can call.
var methods = map[string]func(r *reentry){
	"Server.Close":    func(r *reentry) { r.srv.Close() },
	"Server.Shutdown": func(r *reentry) { r.srv.Shutdown(background) },
	"Server.Shutdown without a context": func(r *reentry) {
		var none context.Context
		r.srv.Shutdown(none)
	},
	"Server.Reload": func(r *reentry) {
		cfg := r.cfg
		cfg.Addr = ":1936" // which is logged
		cfg.RefreshInterval += time.Hour
		r.srv.Reload(cfg)
	},
	"Server.Publish": func(r *reentry) {
		for _, name := range []string{"s", "other", "new"} {
			if p, err := r.srv.Publish(background, forward.Request{App: "live", Stream: name}); err == nil {
				p.WriteTag(forward.TagVideo, 0, rtmptest.VideoHeader)
				p.Close()
			}
		}
	},
	"Server.Serve": func(r *reentry) {
		l, _ := r.net.Listen("second:1935")
		l.Close()
		r.srv.Serve(hostListener{Listener: l, r: r})
	},
	"Server.ServeConn": func(r *reentry) {
		near, far := forwardtest.Pipe()
		near.Close()
		r.srv.ServeConn(background, hostConn{far, r})
	},
	"Server's getters": func(r *reentry) {
		_ = fmt.Sprint(r.srv, r.srv.Sources(), r.srv.Stats(), r.srv.Source("live/s"))
		request(r, "GET", "/sources")
	},
	"Handler": func(r *reentry) {
		r.sources(func(src *forward.Source) {
			request(r, "POST", "/sources/"+src.ID()+"/refresh")
			for _, f := range src.Forwarders() {
				request(r, "DELETE", "/sources/"+src.ID()+"/forwarders/"+f.ID())
			}
			request(r, "DELETE", "/sources/"+src.ID())
		})
	},
	"Source's getters": func(r *reentry) {
		r.sources(func(src *forward.Source) {
			_ = fmt.Sprint(src, src.Name(), src.ID(), src.Request(), src.Done(), src.Forwarders(), src.Stats())
		})
	},
	"Source.Close":    func(r *reentry) { r.sources(func(src *forward.Source) { src.Close() }) },
	"Source.Shutdown": func(r *reentry) { r.sources(func(src *forward.Source) { src.Shutdown(background) }) },
	"Source.Refresh":  func(r *reentry) { r.sources(func(src *forward.Source) { src.Refresh(background) }) },
	"Source.Forward": func(r *reentry) {
		r.sources(func(src *forward.Source) {
			src.Forward(forward.Destination{URL: "rtmp://a/live", StreamKey: "another"})
			src.Forward(forward.Destination{URL: "rtmp://a/live", StreamKey: "another"})
		})
	},
	"Source.Subscribe": func(r *reentry) {
		r.sources(func(src *forward.Source) {
			ctx, cancel := brief()
			defer cancel()
			sub := src.Subscribe(ctx)
			for range 3 {
				sub.Next()
			}
			sub.Close()
			sub.Next()
		})
	},
	"Source.Demuxer": func(r *reentry) {
		r.sources(func(src *forward.Source) {
			ctx, cancel := brief()
			defer cancel()
			d := src.Demuxer(ctx)
			d.Streams()
			d.ReadPacket()
			d.Close()
		})
	},
	"Subscription": func(r *reentry) { r.sub.Close(); r.sub.Next() },
	"Forwarder's getters": func(r *reentry) {
		r.forwarders(func(f *forward.Forwarder) { _ = fmt.Sprint(f, f.Destination(), f.Stats(), f.Done()) })
	},
	"Forwarder.Close":    func(r *reentry) { r.forwarders(func(f *forward.Forwarder) { f.Close() }) },
	"Forwarder.Shutdown": func(r *reentry) { r.forwarders(func(f *forward.Forwarder) { f.Shutdown(background) }) },
	"Forwarder.Shutdown with a context that has ended": func(r *reentry) {
		ctx, cancel := context.WithCancel(background)
		cancel()
		r.forwarders(func(f *forward.Forwarder) { f.Shutdown(ctx) })
	},
	"Forwarder.Update": func(r *reentry) {
		r.forwarders(func(f *forward.Forwarder) {
			f.Update(background, forward.Destination{URL: "rtmp://a/live", StreamKey: "new"})
		})
		r.forwarders(func(f *forward.Forwarder) {
			f.Update(background, forward.Destination{URL: "rtmp://down/live", StreamKey: "new"})
		})
		r.forwarders(func(f *forward.Forwarder) { f.Update(background, f.Destination()) })
	},
	"Publisher": func(r *reentry) {
		r.other.WriteHeader([]av.CodecData{})
		r.other.WritePacket(av.Packet{})
		r.other.WriteTrailer()
		r.other.WriteTag(forward.TagVideo, 0, rtmptest.VideoHeader)
		r.other.WriteTag(forward.TagVideo, 0, rtmptest.Frame(true, 1))
		_ = fmt.Sprint(r.other, r.other.Source())
	},
	"Publisher.Close": func(r *reentry) { r.other.Close() },
}

// run is the life of a stream that reaches all places. It continues whatever the method
// has done to the Server.
func (r *reentry) run() {
	ctx := context.Background()
	tell := func(place string) error { r.at(place); return nil }
	resolve := forward.ResolverFunc(func(ctx context.Context, req *forward.Request) ([]forward.Destination, error) {
		if r.at("Resolver"); forward.IsRefresh(ctx) {
			r.at("Resolver of a refresh")
			return []forward.Destination{{URL: "rtmp://a/live", StreamKey: forward.Secret(req.Stream)}}, nil
		}
		return []forward.Destination{
			{URL: "rtmp://a/live", StreamKey: forward.Secret(req.Stream)},
			{URL: "rtmp://down/live", StreamKey: forward.Secret(req.Stream)},
			{URL: "rtmp://stalled/live", StreamKey: forward.Secret(req.Stream)},
			{URL: "rtmp://a/own", StreamKey: forward.Secret(req.Stream), DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				r.at("DialContext")
				return r.net.Dial(ctx, network, addr)
			}},
		}, nil
	})
	dest := r.net.NewDestination("a:1935")
	defer dest.Close()
	stalled := r.net.NewDestination("stalled:1935", forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Stall: 5000}}})
	defer stalled.Close()
	r.cfg = forward.Config{
		Logger: secretscan.Logger(hostLog{slog.DiscardHandler, r}), Resolver: resolve, MergeWindow: -1, Takeover: true,
		PublishAuth: func(string) (forward.Secret, bool) { r.at("PublishAuth"); return "pass", true },
		Retry:       func(forward.RetryInfo) time.Duration { r.at("Retry"); return 0 },
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if r.at("Dial"); addr == "down:1935" {
				return nil, hostError{r}
			}
			nc, err := r.net.Dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return hostConn{nc, r}, nil
		},
		Hooks: forward.Hooks{
			OnConnect: func(_ context.Context, req *forward.Request) error {
				if req.App == "panic" {
					panic("of the host")
				}
				return tell("OnConnect")
			},
			OnPublish:     func(context.Context, *forward.Request) error { return tell("OnPublish") },
			OnUnpublish:   func(context.Context, *forward.Request) { r.at("OnUnpublish") },
			OnPlay:        func(context.Context, *forward.Request) error { return tell("OnPlay") },
			OnStop:        func(context.Context, *forward.Request) { r.at("OnStop") },
			OnClose:       func(context.Context, *forward.Request, uint64, uint64) { r.at("OnClose") },
			OnForward:     func(_ *forward.Forwarder, s forward.State, _ error) { r.at("OnForward " + string(s)) },
			OnSource:      func(*forward.Source) { r.at("OnSource") },
			OnCodecChange: func(*forward.Source) { r.at("OnCodecChange") },
		},
	}
	r.srv = forward.NewServer(r.cfg)
	p, err := r.srv.Publish(ctx, forward.Request{App: "live", Stream: "other"})
	require.NoError(r, err)
	r.other, r.sub = p, p.Source().Subscribe(ctx)
	r.other.WriteTag(forward.TagVideo, 0, rtmptest.VideoHeader)
	r.other.WriteTag(forward.TagVideo, 0, rtmptest.Frame(true, 0))
	r.ready.Store(true)

	nl, err := r.net.Listen("server:1935")
	require.NoError(r, err)
	served := make(chan error, 1)
	go func() { served <- r.srv.Serve(hostListener{Listener: nl, r: r}) }()
	defer func() { <-served }()
	// Every call below returns, whatever the method has done.
	client := func(name string) forwardtest.Client {
		return forwardtest.Client{URL: "rtmp://server/" + name, User: "user", Password: "pass", Dial: r.net.Dial}
	}
	soon, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	client("panic/s").Publish(soon)
	pub, err := client("live/s").Publish(soon)
	if err == nil {
		defer pub.Close()
		pub.Send(soon, bitrate(2_000_000).Messages(time.Second), 1)
		time.Sleep(3 * time.Second) // the stalled destination
		player, err := client("live/s").Play(soon, nil)
		if err == nil {
			time.Sleep(time.Second)
			player.Close()
		}
		pub.Send(soon, steady.Messages(time.Second), 1)
		pub.WriteMessage(forwardtest.Message{Type: forward.TagVideo, Payload: append([]byte{0x17, 0, 0, 0, 0}, "another header"...)})
		time.Sleep(time.Second)
		if src := r.srv.Source("live/s"); src != nil {
			src.Refresh(soon)
			src.Forward(forward.Destination{URL: "rtmp://a/live", StreamKey: "more"})
			request(r, "POST", "/sources/"+src.ID()+"/refresh")
		}
		if again, err := client("live/s").Publish(soon); err == nil {
			again.Send(soon, steady.Messages(time.Second), 1)
			again.Close()
		}
		cfg := r.cfg
		cfg.Addr = ":1937"
		r.srv.Reload(cfg)
	}
	time.Sleep(3 * time.Second)
	r.srv.Close()
}

func TestEveryMethodFromEveryHook(t *testing.T) {
	for _, place := range places {
		t.Run(place, func(t *testing.T) {
			for i, name := range slices.Sorted(maps.Keys(methods)) {
				call := methods[name]
				if raceDetector() && i%4 != len(place)%4 {
					continue // the race detector makes these take minutes; without it all are tested
				}
				for _, skip := range []int64{0, 3} { // the first call, and later ones
					if _, rare := strings.CutPrefix(place, "Logger "); skip > 0 && rare {
						continue
					}
					synctest.Test(t, func(t *testing.T) {
						r := &reentry{T: t, net: new(forwardtest.Network), place: place, call: call, returned: make(chan struct{})}
						r.skip.Store(skip)
						over := make(chan struct{})
						go func() { defer close(over); r.run() }()
						select {
						case <-over:
						case <-time.After(3 * time.Minute):
							panic(fmt.Sprintf("%s from %s: the Server does not end", name, place))
						}
						synctest.Wait()
						if skip == 0 {
							require.True(t, r.fired.Load(), "%s is not reached", place)
						}
						if r.fired.Load() {
							<-r.returned
							require.LessOrEqual(t, r.took, 5*time.Second, name)
						}
					})
				}
			}
		})
	}
}
