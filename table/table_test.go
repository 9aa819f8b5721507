package table_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/hosttest"
	"github.com/rtmp-forward/forward/internal/secretscan"
	"github.com/rtmp-forward/forward/table"
)

// memory is an empty Table that is closed when the test ends.
func memory(t testing.TB) *table.Table {
	tb := table.New(table.Options{Logger: secretscan.Quiet})
	t.Cleanup(func() { tb.Close() })
	return tb
}

// at is an entry for a stream at a host.
func at(name, stream, host string, state table.State) table.Entry {
	return table.Entry{Name: name, Stream: stream, State: state, Destination: forward.Destination{
		URL: "rtmp://" + host + "/app", StreamKey: forward.Secret(canary + "-" + name),
	}}
}

// with calls f in virtual time, with a server that has a table.
func with(t *testing.T, cfg forward.Config, f func(b *hosttest.Bubble, tb *table.Table)) {
	t.Helper()
	var tb *table.Table
	cfg.FirstMediaTimeout, cfg.ReadTimeout = -1, -1 // publishers need no media
	onSource := cfg.Hooks.OnSource
	cfg.Hooks.OnSource = func(src *forward.Source) {
		if onSource != nil {
			onSource(src)
		}
		tb.OnSource(src)
	}
	hosttest.InBubble(t, cfg, func(b *hosttest.Bubble) {
		tb = table.New(table.Options{Logger: secretscan.Quiet})
		defer tb.Close()
		defer b.Server.Close()
		f(b, tb)
	})
}

// commands are the names of the commands that a session has received.
func commands(s *forwardtest.Session) (names []string) {
	for _, c := range s.Commands() {
		names = append(names, c.Name)
	}
	return names
}

func row(t testing.TB, tb *table.Table, src *forward.Source, name string) table.Row {
	for _, r := range tb.Rows(src) {
		if r.Name == name {
			return r
		}
	}
	require.Fail(t, "no row "+name)
	return table.Row{}
}

// An entry is there before its stream, and is pushed to when it is on.
func TestEntriesWaitForTheirStreams(t *testing.T) {
	with(t, forward.Config{}, func(b *hosttest.Bubble, tb *table.Table) {
		on, off, held := b.Destination("on:1935"), b.Destination("off:1935"), b.Destination("held:1935")
		require.NoError(t, tb.Put(b.Ctx, at("on", "live/*", "on", table.On), "jo"))
		require.NoError(t, tb.Put(b.Ctx, at("off", "live/*", "off", ""), "jo"))
		require.NoError(t, tb.Put(b.Ctx, at("held", "live/*", "held", table.Held), "jo"))
		require.NoError(t, tb.Put(b.Ctx, at("other", "other/*", "off", table.On), "jo"))
		b.Publish("live/cam")
		b.Published(on, 1)
		time.Sleep(time.Minute)
		require.Empty(t, off.Sessions())
		require.Empty(t, held.Sessions())

		src := b.Server.Source("live/cam")
		rows := tb.Rows(src)
		require.Len(t, rows, 3)
		require.Equal(t, []bool{false, false, true}, []bool{rows[0].Live, rows[1].Live, rows[2].Live})
		require.Equal(t, forward.StatePublishing, rows[2].Forwarder.Stats().State)
		require.Equal(t, "jo", rows[2].By)
		require.False(t, rows[2].Changed.IsZero())

		require.NoError(t, tb.GoLive("held", "jo", src))
		b.Published(held, 1)
		require.NoError(t, tb.Switch(b.Ctx, "off", table.On, "jo"))
		b.Published(off, 1)
		require.NoError(t, tb.Switch(b.Ctx, "on", table.Off, "jo"))
		synctest.Wait()
		require.Contains(t, commands(on.Sessions()[0]), "FCUnpublish")
		require.Len(t, src.Forwarders(), 2)
	})
}

// What has gone live is held again for the next publish, and after a switch.
func TestGoLiveEndsWithTheStream(t *testing.T) {
	with(t, forward.Config{}, func(b *hosttest.Bubble, tb *table.Table) {
		d := b.Destination("d:1935")
		require.NoError(t, tb.Put(b.Ctx, at("d", "live/cam", "d", table.Held), ""))
		require.ErrorIs(t, tb.GoLive("d", ""), table.ErrNotLive)
		p := b.Publish("live/cam")
		require.NoError(t, tb.GoLive("d", ""))
		b.Published(d, 1)
		src := b.Server.Source("live/cam")
		p.Close()
		<-src.Done()

		b.Publish("live/cam")
		time.Sleep(time.Minute)
		require.Len(t, d.Sessions(), 1)
		require.NoError(t, tb.GoLive("d", ""))
		b.Published(d, 2)
		require.NoError(t, tb.Switch(b.Ctx, "d", table.Held, ""))
		synctest.Wait()
		require.Contains(t, commands(d.Sessions()[1]), "FCUnpublish")
		require.Empty(t, b.Server.Source("live/cam").Forwarders())
		require.NoError(t, tb.Switch(b.Ctx, "d", table.Off, ""))
		require.ErrorIs(t, tb.GoLive("d", ""), table.ErrNotHeld)
		require.ErrorIs(t, tb.GoLive("x", ""), table.ErrNotFound)
	})
}

// A destination that another part of the host has added is not added a second time, and
// the entry takes its place when it has ended.
func TestDestinationsAreNotDoubled(t *testing.T) {
	var mine forward.Destination
	resolved := forward.ResolverFunc(func(context.Context, *forward.Request) ([]forward.Destination, error) {
		if mine.URL == "" {
			return nil, nil
		}
		return []forward.Destination{mine}, nil
	})
	for _, by := range []string{"a resolver", "hand"} {
		t.Run(by, func(t *testing.T) {
			entry := at("d", "live/cam", "d", table.On)
			mine = forward.Destination{}
			if by == "a resolver" {
				mine = entry.Destination
			}
			with(t, forward.Config{Resolver: resolved, Hooks: forward.Hooks{OnSource: func(src *forward.Source) {
				if by == "hand" {
					_, err := src.Forward(entry.Destination)
					require.NoError(t, err)
				}
			}}}, func(b *hosttest.Bubble, tb *table.Table) {
				d := b.Destination("d:1935")
				require.NoError(t, tb.Put(b.Ctx, entry, ""))
				b.Publish("live/cam")
				b.Published(d, 1)
				src := b.Server.Source("live/cam")
				require.ErrorIs(t, row(t, tb, src, "d").Err, forward.ErrDuplicate)
				require.NoError(t, src.Refresh(b.Ctx))
				time.Sleep(time.Minute)
				require.Len(t, src.Forwarders(), 1)

				mine = forward.Destination{}
				require.NoError(t, src.Refresh(b.Ctx))
				if by == "hand" {
					src.Forwarders()[0].Shutdown(b.Ctx)
				}
				time.Sleep(2 * time.Second)
				b.Published(d, 2)
				require.NoError(t, row(t, tb, src, "d").Err)

				mine = entry.Destination // the table is first now
				require.NoError(t, src.Refresh(b.Ctx))
				mine = forward.Destination{}
				require.NoError(t, src.Refresh(b.Ctx))
				synctest.Wait()
				require.Len(t, d.Sessions(), 2)
				require.Len(t, src.Forwarders(), 1)
			})
		})
	}
}

// A Forwarder that an operator ends stays away until the entry is switched.
func TestForwarderThatOthersHaveEnded(t *testing.T) {
	with(t, forward.Config{}, func(b *hosttest.Bubble, tb *table.Table) {
		d := b.Destination("d:1935")
		require.NoError(t, tb.Put(b.Ctx, at("d", "live/cam", "d", table.On), ""))
		b.Publish("live/cam")
		b.Published(d, 1)
		src := b.Server.Source("live/cam")
		require.NoError(t, row(t, tb, src, "d").Forwarder.Shutdown(b.Ctx))
		time.Sleep(time.Minute)
		require.NoError(t, tb.Put(b.Ctx, at("another", "live/x", "d", table.On), ""))
		time.Sleep(time.Minute)
		require.Len(t, d.Sessions(), 1)
		require.NoError(t, tb.Switch(b.Ctx, "d", table.On, ""))
		b.Published(d, 2)
		require.NoError(t, tb.GoLive("d", ""))
		synctest.Wait()
		require.Len(t, src.Forwarders(), 1)
	})
}

// An entry that is put again with the same destination is not disturbed; with another one
// it is replaced, also at the same place.
func TestPutOnALiveStream(t *testing.T) {
	with(t, forward.Config{}, func(b *hosttest.Bubble, tb *table.Table) {
		d, e := b.Destination("d:1935"), b.Destination("e:1935")
		entry := at("d", "live/cam", "d", table.On)
		require.NoError(t, tb.Put(b.Ctx, entry, ""))
		b.Publish("live/cam")
		b.Published(d, 1)
		entry.State = ""
		entry.Stream = "live/c*"
		require.NoError(t, tb.Put(b.Ctx, entry, ""))
		synctest.Wait()
		require.Len(t, d.Sessions(), 1)

		entry.Destination.PlainMetadata = true
		require.NoError(t, tb.Put(b.Ctx, entry, ""))
		b.Published(d, 2)
		require.Contains(t, commands(d.Sessions()[0]), "FCUnpublish")

		entry.Destination.URL = "rtmp://e/app"
		require.NoError(t, tb.Put(b.Ctx, entry, ""))
		b.Published(e, 1)
		require.Contains(t, commands(d.Sessions()[1]), "FCUnpublish")

		entry.Stream = "live/x"
		require.NoError(t, tb.Put(b.Ctx, entry, ""))
		synctest.Wait()
		require.Contains(t, commands(e.Sessions()[0]), "FCUnpublish")
		require.Empty(t, b.Server.Source("live/cam").Forwarders())
	})
}

func TestDelete(t *testing.T) {
	with(t, forward.Config{}, func(b *hosttest.Bubble, tb *table.Table) {
		d := b.Destination("d:1935")
		require.NoError(t, tb.Put(b.Ctx, at("d", "live/cam", "d", table.On), ""))
		b.Publish("live/cam")
		b.Published(d, 1)
		require.NoError(t, tb.Delete(b.Ctx, "d", ""))
		synctest.Wait()
		require.Contains(t, commands(d.Sessions()[0]), "FCUnpublish")
		require.ErrorIs(t, tb.Delete(b.Ctx, "d", ""), table.ErrNotFound)
		_, ok := tb.Entry("d")
		require.False(t, ok)
	})
}

// Placeholders of a pattern's destination have the values of the stream.
func TestPlaceholders(t *testing.T) {
	with(t, forward.Config{}, func(b *hosttest.Bubble, tb *table.Table) {
		d := b.Destination("d:1935")
		require.NoError(t, tb.Put(b.Ctx, table.Entry{Name: "d", Stream: "*", State: table.On,
			Destination: forward.Destination{URL: "rtmp://d/[app]/x-[stream]"}}, ""))
		b.Publish("live/cam")
		s := b.Published(d, 1)
		c, err := s.WaitCommand(b.Ctx, "publish")
		require.NoError(t, err)
		require.Equal(t, "x-cam", c.String(1))
	})
}

// What cannot be pushed is told once, and tried again.
func TestLimitOfDestinations(t *testing.T) {
	var log bytes.Buffer
	var tb *table.Table
	cfg := forward.Config{Limits: forward.Limits{Destinations: 1}, Hooks: forward.Hooks{OnSource: func(src *forward.Source) { tb.OnSource(src) }}}
	hosttest.InBubble(t, cfg, func(b *hosttest.Bubble) {
		tb = table.New(table.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		defer tb.Close()
		defer b.Server.Close()
		d, e := b.Destination("d:1935"), b.Destination("e:1935")
		require.NoError(t, tb.Put(b.Ctx, at("d", "live/cam", "d", table.On), ""))
		require.NoError(t, tb.Put(b.Ctx, at("e", "live/cam", "e", table.On), ""))
		b.Publish("live/cam")
		b.Published(d, 1)
		time.Sleep(10 * time.Second)
		src := b.Server.Source("live/cam")
		require.ErrorIs(t, row(t, tb, src, "e").Err, forward.ErrLimit)
		require.Equal(t, 1, strings.Count(log.String(), "level=WARN"))
		require.NoError(t, tb.Switch(b.Ctx, "d", table.Off, ""))
		time.Sleep(2 * time.Second)
		b.Published(e, 1)
		require.NotContains(t, log.String(), canary)
		require.NotContains(t, log.String(), "live/cam")
	})
}

func TestNamesOfStreams(t *testing.T) {
	for _, tt := range []struct {
		pattern string
		yes, no []string
	}{
		{"live/cam", []string{"live/cam"}, []string{"live/cam2", "xlive/cam", "//v/live/cam"}},
		{"live/*", []string{"live/cam", "live/a/b", "live/"}, []string{"live2/cam", "//v/live/cam"}},
		{"cam-?", []string{"cam-1"}, []string{"cam-", "cam-12"}},
		{"//V.example/live/*", []string{"//v.example/live/a"}, []string{"live/a", "//w.example/live/a"}},
		{"//*.example/live/*", []string{"//v.example/live/a"}, []string{"//v.test/live/a"}},
		{"//*/*", []string{"live/a", "//v.example/live/a"}, nil},
		{"//__DEFAULTvhost__/live/a", []string{"live/a"}, []string{"//v/live/a"}},
		{"~live/(a|b)", []string{"live/a", "live/b"}, []string{"live/ab", "xlive/a"}},
		{"~//v/.*", []string{"//v/live/a"}, []string{"live/a"}},
		{"a.c/d", []string{"a.c/d"}, []string{"abc/d"}},
	} {
		tb := memory(t)
		require.NoError(t, tb.Put(t.Context(), at("d", tt.pattern, "d", table.Off), ""))
		s := hosttest.NewServer(t, forward.Config{})
		for i, names := range [][]string{tt.yes, tt.no} {
			for _, name := range names {
				req := forward.Request{}
				path := name
				if rest, ok := strings.CutPrefix(name, "//"); ok {
					req.Vhost, path, _ = strings.Cut(rest, "/")
				}
				req.App, req.Stream, _ = strings.Cut(path, "/")
				if req.Stream == "" {
					continue
				}
				p, err := s.Publish(t.Context(), req)
				require.NoError(t, err, name)
				require.Equal(t, name, p.Source().Name())
				require.Equal(t, i == 0, len(tb.Rows(p.Source())) == 1, "%s %s", tt.pattern, name)
				p.Close()
			}
		}
	}
}

func TestBadEntries(t *testing.T) {
	tb := memory(t)
	for what, e := range map[string]table.Entry{
		"no name":           at("", "live/x", "d", table.On),
		"a path":            at("../x", "live/x", "d", table.On),
		"a long name":       at(strings.Repeat("x", 65), "live/x", "d", table.On),
		"a space":           at("a b", "live/x", "d", table.On),
		"no stream":         at("d", "", "d", table.On),
		"a control":         at("d", "live/\n", "d", table.On),
		"half a vhost":      at("d", "//v", "d", table.On),
		"a bad expression":  at("d", "~("+canary, "d", table.On),
		"a state":           at("d", "live/x", "d", "canary"),
		"a bad URL":         at("d", "live/x", "/"+canary, table.On),
		"a bad placeholder": {Name: "d", Stream: "live/x", Destination: forward.Destination{URL: "rtmp://d/app/[" + "key]" + canary}},
	} {
		err := tb.Put(t.Context(), e, "")
		require.Error(t, err, what)
		require.NotContains(t, err.Error(), canary, what)
		require.Error(t, e.Validate(), what)
	}
	require.Empty(t, tb.Entries())
	require.Error(t, tb.Put(t.Context(), at("d", "live/x", "d", table.On), "a\nb"))
	require.Error(t, tb.Switch(t.Context(), "d", table.On, strings.Repeat("x", 257)))
	require.ErrorIs(t, tb.Switch(t.Context(), "a\n"+canary, table.On, ""), table.ErrNotFound)
	require.NoError(t, tb.Put(t.Context(), at("d", "live/x", "d", table.On), ""))
	require.Error(t, tb.Switch(t.Context(), "d", "dim", ""))
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for range 20 { // one of two ready cases is chosen at random
		if err := tb.Put(cancelled, at("e", "live/x", "d", table.On), ""); err != nil {
			require.ErrorIs(t, err, context.Canceled)
		}
	}
}

func TestNumberOfEntriesIsLimited(t *testing.T) {
	tb := memory(t)
	for i := range table.MaxEntries {
		require.NoError(t, tb.Put(t.Context(), at(fmt.Sprint("d", i), "live/x", "d", table.Off), ""))
	}
	require.ErrorIs(t, tb.Put(t.Context(), at("more", "live/x", "d", table.Off), ""), forward.ErrLimit)
	require.NoError(t, tb.Put(t.Context(), at("d0", "live/x", "e", table.Off), ""))
}

// After Close nothing changes, and the streams are left alone.
func TestClosedTable(t *testing.T) {
	with(t, forward.Config{}, func(b *hosttest.Bubble, tb *table.Table) {
		d := b.Destination("d:1935")
		require.NoError(t, tb.Put(b.Ctx, at("d", "live/*", "d", table.On), ""))
		b.Publish("live/cam")
		b.Published(d, 1)
		require.NoError(t, tb.Close())
		require.NoError(t, tb.Close())
		require.ErrorIs(t, tb.Switch(b.Ctx, "d", table.Off, ""), table.ErrClosed)
		require.ErrorIs(t, tb.GoLive("d", ""), table.ErrClosed)
		b.Publish("live/two")
		time.Sleep(time.Minute)
		require.Len(t, b.Server.Source("live/cam").Forwarders(), 1)
		require.Empty(t, b.Server.Source("live/two").Forwarders())
	})
}

// A table can be changed from hooks, also by what it does itself.
func TestChangesFromHooks(t *testing.T) {
	var tb *table.Table
	cfg := forward.Config{Hooks: forward.Hooks{
		OnSource: func(src *forward.Source) {
			tb.OnSource(src)
			require.NoError(t, tb.Switch(context.Background(), "d", table.On, "hook"))
		},
		OnForward: func(_ *forward.Forwarder, state forward.State, _ error) {
			if state == forward.StatePublishing {
				if err := tb.Switch(context.Background(), "d", table.Off, "hook"); err != nil {
					panic(err)
				}
			}
		},
	}}
	hosttest.InBubble(t, cfg, func(b *hosttest.Bubble) {
		tb = table.New(table.Options{Logger: secretscan.Quiet})
		defer tb.Close()
		defer b.Server.Close()
		d := b.Destination("d:1935")
		require.NoError(t, tb.Put(b.Ctx, at("d", "live/*", "d", table.Held), ""))
		b.Publish("live/cam")
		s := b.Published(d, 1)
		_, err := s.WaitCommand(b.Ctx, "FCUnpublish")
		require.NoError(t, err)
	})
}

func TestErrorsAreForward(t *testing.T) {
	for _, err := range []error{table.ErrNotFound, table.ErrNotHeld, table.ErrNotLive, table.ErrClosed, &table.FileError{Path: "p", Err: errors.New("x")}} {
		require.True(t, strings.HasPrefix(err.Error(), "forward: "), err)
	}
}
