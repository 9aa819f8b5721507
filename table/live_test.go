package table_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/hosttest"
	"github.com/rtmp-forward/forward/table"
)

// Over loopback and with a file, a destination that is switched on gets a keyframe within
// 100 ms, one that is switched off is told within 1 s, and the others get every byte.
func TestSwitchOverLoopback(t *testing.T) {
	const times, ceiling = 5, 5
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tb := open(t, filepath.Join(t.TempDir(), "t.json"))
	var keep [2]*forwardtest.Destination
	for i := range keep {
		keep[i] = forwardtest.NewDestination()
		defer keep[i].Close()
		require.NoError(t, tb.Put(ctx, table.Entry{
			Name: fmt.Sprint("keep", i), Stream: "live/*", State: table.On,
			Destination: forward.Destination{URL: keep[i].URL("app/" + canary)},
		}, ""))
	}
	d := forwardtest.NewDestination()
	defer d.Close()
	require.NoError(t, tb.Put(ctx, table.Entry{
		Name: "d", Stream: "live/cam", Destination: forward.Destination{URL: d.URL("app/" + canary)},
	}, ""))
	s := hosttest.NewServer(t, forward.Config{Hooks: forward.Hooks{OnSource: tb.OnSource}})
	pub, err := forwardtest.Client{URL: "rtmp://" + hosttest.ServeLoopback(t, s) + "/live/cam"}.Publish(ctx)
	require.NoError(t, err)
	defer pub.Close()
	sent := make(chan error, 1)
	go func() { sent <- pub.Send(ctx, forwardtest.Media{}.Messages(3*time.Second), 1) }()
	var kept []*forwardtest.Session
	for _, k := range keep {
		k, err := k.WaitSession(ctx, 1)
		require.NoError(t, err)
		require.NoError(t, k.Recorder().WaitFrames(ctx, 10))
		kept = append(kept, k)
	}

	var on, off []time.Duration
	for n := range times {
		began := time.Now()
		require.NoError(t, tb.Switch(ctx, "d", table.On, ""))
		session, err := d.WaitSession(ctx, n+1)
		require.NoError(t, err)
		require.NoError(t, session.Recorder().Wait(ctx, func(r forwardtest.Report) bool { return r.Keyframes > 0 }))
		on = append(on, time.Since(began))
		began = time.Now()
		require.NoError(t, tb.Switch(ctx, "d", table.Off, ""))
		_, err = session.WaitCommand(ctx, "FCUnpublish")
		require.NoError(t, err)
		off = append(off, time.Since(began))
		session.Recorder().Check(t)
	}
	t.Logf("on to keyframe %v, off to FCUnpublish %v", on, off)
	require.LessOrEqual(t, slices.Max(on), ceiling*100*time.Millisecond)
	require.LessOrEqual(t, slices.Max(off), ceiling*time.Second)

	require.NoError(t, <-sent)
	require.NoError(t, pub.Unpublish())
	var got [2][]forwardtest.Message
	for i, k := range kept {
		_, err := k.WaitCommand(ctx, "FCUnpublish")
		require.NoError(t, err)
		k.Recorder().Check(t)
		require.Zero(t, k.Recorder().Report().Missing)
		got[i] = k.Recorder().Messages()
	}
	require.Greater(t, len(got[0]), 20)
	require.Equal(t, got[0], got[1])
	n := 0
	for m := range (forwardtest.Media{}).Messages(3 * time.Second) {
		require.Less(t, n, len(got[0]))
		if m.Type != forwardtest.TypeData { // which is sent in another form
			require.Equal(t, m, got[0][n], "message %d", n)
		}
		n++
	}
	require.Len(t, got[0], n)
}

// world is a server with a table, at which everything happens at random.
type world struct {
	*hosttest.Bubble
	tb      *table.Table
	random  *rand.Rand
	pubs    map[string]*forward.Publisher
	live    map[*forward.Source]map[string]bool // held entries that have gone live
	resolve bool                                // the resolver has a destination of its own
}

// covers are the patterns of the entries, and which streams they are for.
var covers = map[string]func(stream string) bool{
	"live/a":       func(s string) bool { return s == "live/a" },
	"live/*":       func(s string) bool { return strings.HasPrefix(s, "live/") },
	"~.*/(b|c)":    func(s string) bool { return strings.HasSuffix(s, "/b") || strings.HasSuffix(s, "/c") },
	"//*/other/?":  func(s string) bool { return strings.HasPrefix(s, "other/") },
	"live/nothing": func(string) bool { return false },
}

var streamNames = []string{"live/a", "live/b", "other/c"}

func (w *world) pick(of []string) string { return of[w.random.IntN(len(of))] }

func (w *world) step() {
	name := w.pick([]string{"one", "two", "three", "four"})
	state := []table.State{table.On, table.Off, table.Held}[w.random.IntN(3)]
	forget := func() {
		for _, names := range w.live {
			delete(names, name)
		}
	}
	switch w.random.IntN(14) {
	case 0, 1, 2:
		e := table.Entry{
			Name: name, State: state, Stream: w.pick(slices.Sorted(maps.Keys(covers))),
			Destination: forward.Destination{URL: "rtmp://" + w.pick([]string{"d0", "d1"}) + "/app", StreamKey: forward.Secret(canary + name)},
		}
		old, there := w.tb.Entry(name)
		require.NoError(w, w.tb.Put(w.Ctx, e, "random"))
		if !there || old.State != state {
			forget()
		}
	case 3, 4, 5:
		if err := w.tb.Switch(w.Ctx, name, state, "random"); err != nil {
			require.ErrorIs(w, err, table.ErrNotFound)
			return
		}
		forget()
	case 6:
		if w.tb.Delete(w.Ctx, name, "random") == nil {
			forget()
		}
	case 7, 8:
		var of []*forward.Source
		for _, src := range w.Server.Sources() {
			if e, ok := w.tb.Entry(name); ok && e.State == table.Held && covers[e.Stream](src.Name()) && w.random.IntN(2) == 0 {
				of = append(of, src)
			}
		}
		if len(of) > 0 && w.tb.GoLive(name, "random", of...) == nil {
			for _, src := range of {
				if w.live[src] == nil {
					w.live[src] = make(map[string]bool)
				}
				w.live[src][name] = true
			}
		}
	case 9, 10: // begin, come back in the grace, or take over
		stream := w.pick(streamNames)
		app, last, _ := strings.Cut(stream, "/")
		p, err := w.Server.Publish(w.Ctx, forward.Request{App: app, Stream: last})
		if err != nil {
			return // it is ending at this moment
		}
		p.WriteTag(forward.TagVideo, 0, []byte{0x17, 0, 0, 0, 0, 1, 0x64, 0, 0x1f, 0xff})
		p.WriteTag(forward.TagVideo, 40, []byte{0x17, 1, 0, 0, 0, 0xff})
		if old := w.pubs[stream]; old != nil {
			old.Close()
		}
		w.pubs[stream] = p
	case 11:
		stream := w.pick(streamNames)
		if p := w.pubs[stream]; p != nil {
			p.Close()
			delete(w.pubs, stream)
		}
	case 12:
		w.resolve = w.random.IntN(2) == 0
		cfg := w.Config
		cfg.Resolver = w.resolver()
		require.NoError(w, w.Server.Reload(cfg))
	case 13:
		for _, src := range w.Server.Sources() {
			src.Refresh(w.Ctx)
		}
	}
}

func (w *world) resolver() forward.DestinationResolver {
	if w.resolve {
		return forward.MustStatic("rtmp://d0/resolved")
	}
	return forward.MustStatic()
}

// check compares the destinations of the live streams with those that they are to have.
func (w *world) check() {
	for _, src := range w.Server.Sources() {
		var want, got []string
		if w.resolve {
			want = append(want, "rtmp://d0/resolved")
		}
		for _, e := range w.tb.Entries() {
			on := e.State == table.On || e.State == table.Held && w.live[src][e.Name]
			if on && covers[e.Stream](src.Name()) {
				want = append(want, e.Destination.URL+" "+e.Name)
			}
		}
		for _, f := range src.Forwarders() {
			d := f.Destination()
			name, own := strings.CutPrefix(string(d.StreamKey), canary)
			if own {
				name = " " + name
			} else {
				name = ""
			}
			got = append(got, d.URL+name)
			require.Equal(w, forward.StatePublishing, f.Stats().State, "%s of %s", d, src.Name())
		}
		require.ElementsMatch(w, want, got, src.Name())
	}
}

// Whatever happens to streams, entries and the configuration, the streams have the
// destinations that the table says, no more and no fewer, and nothing is left running.
func TestTableAtRandom(t *testing.T) {
	checked := 0
	for seed := range uint64(40) {
		cfg := forward.Config{
			Takeover: true, PublishGrace: 2 * time.Second, GraceUnpublish: true, DrainTimeout: time.Second,
			Resolver: forward.MustStatic(),
		}
		with(t, cfg, func(b *hosttest.Bubble, tb *table.Table) {
			w := &world{
				Bubble: b, tb: tb, random: rand.New(rand.NewPCG(seed, 1)),
				pubs: make(map[string]*forward.Publisher), live: make(map[*forward.Source]map[string]bool),
			}
			b.Destination("d0:1935")
			b.Destination("d1:1935")
			for range 100 {
				w.step()
				if w.random.IntN(3) == 0 {
					time.Sleep(time.Duration(w.random.IntN(int(cmp.Or(w.random.IntN(2)*3000, 3)))) * time.Millisecond)
				}
				if w.random.IntN(10) == 0 {
					time.Sleep(8 * time.Second)
					w.check()
					checked += len(w.Server.Sources())
				}
			}
			time.Sleep(8 * time.Second)
			w.check()
			checked += len(w.Server.Sources())
		})
	}
	t.Logf("%d streams checked", checked)
	require.Greater(t, checked, 100)
}
