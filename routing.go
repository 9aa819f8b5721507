package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"github.com/rtmp-forward/forward/internal/hostcode"
)

// refreshRetry is the longest delay before the Resolver is asked again after it has
// failed, if its last answer had a TTL.
const refreshRetry = time.Minute

// minRefresh is the shortest time between two questions to the Resolver.
const minRefresh = time.Second

// routing asks the Resolver where a Source goes, and applies its answers.
type routing struct {
	src     *Source
	busy    chan struct{} // full while a refresh is in progress
	again   atomic.Bool   // a hook has asked for another one
	ttl     time.Duration // of the last answer; belongs to the refresh
	failing atomic.Bool   // the last refresh of the Server's own has failed
	untried atomic.Bool   // the resolver is new and has not answered

	// Guarded by src.mu.
	stop     func() // stops the timer of the next refresh
	resolver DestinationResolver
	current  *Config // of the last Reload, else that of the stream; for RefreshInterval
}

// ask asks the resolver where the stream goes. Of duplicates it keeps the first.
func (r *routing) ask(ctx context.Context) (dests []Destination, ttl time.Duration, err error) {
	s := r.src
	s.mu.Lock()
	resolver := r.resolver
	s.mu.Unlock()
	req := s.Request()
	if s.vhost.Standby != nil { // a change of the publisher must not move the destinations
		req = s.req
	}
	err = s.srv.calls.do("Resolver", func() (err error) {
		dests, ttl, err = ResolveTTL(ctx, resolver, req)
		return err
	})
	r.answered(ctx, err)
	return distinctPlaces(slices.Clone(dests)), ttl, err
}

// refreshCause is the cause of a failed refresh, without the stream.
func refreshCause(err error) string {
	if below := errors.Unwrap(err); below != nil {
		err = below
	}
	return hostcode.CauseOf(err)
}

// begin applies the answer with which the stream begins.
func (r *routing) begin(dests []Destination, ttl time.Duration) {
	r.add(dests)
	r.ttl = ttl
	r.refreshAfter(ttl)
}

// refresh is Source.Refresh.
func (r *routing) refresh(ctx context.Context) error {
	s := r.src
	if hostcode.Within() && s.publishing.Err() == nil {
		if !r.again.Swap(true) {
			s.background(r.refreshSelf)
		}
		return ErrInHook
	}
	ctx, cancel := context.WithCancelCause(withLog(orBackground(ctx), s.srv.log))
	defer cancel(nil)
	defer context.AfterFunc(s.publishing, func() { cancel(ErrStreamEnded) })()
	select {
	case r.busy <- struct{}{}:
		defer func() { <-r.busy }()
	case <-ctx.Done():
		return fmt.Errorf("refresh %s: %w", s.req.logName(), context.Cause(ctx))
	}
	r.again.Store(false)
	dests, ttl, err := r.ask(asRefresh(ctx))
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		again := min(r.ttl, refreshRetry)
		if r.untried.Load() {
			again = refreshRetry
		}
		r.refreshAfter(again)
		return fmt.Errorf("refresh %s: %w", s.req.logName(), err)
	}
	r.untried.Store(false)
	r.ttl = ttl
	r.refreshAfter(ttl)
	fresh, gone := r.compare(dests)
	for _, t := range gone {
		t.turn.f.beginClose(t)
	}
	r.add(fresh)
	if len(fresh)+len(gone) > 0 {
		s.srv.log.Info("refresh", "source", s.req.logName(), "new", len(fresh), "gone", len(gone))
	}
	return nil
}

// compare returns the destinations that have no forwarder yet, and the targets from the
// resolver that are no longer wanted.
func (r *routing) compare(dests []Destination) (fresh []Destination, gone []*target) {
	s := r.src
	running := make(map[string][]*target)
	places := make(map[string]bool) // true: a target that the host has added is there
	for _, f := range s.Forwarders() {
		if f.Ending() {
			continue
		}
		now := f.to.Load()
		running[now.id] = append(running[now.id], now)
		for _, t := range f.targets() {
			places[t.place] = places[t.place] || !t.resolved
		}
	}
	wanted := make(map[*target]bool)
	for _, d := range dests {
		same := running[d.id()]
		if i := slices.IndexFunc(same, func(t *target) bool { return t.dst.Equal(d.withDefaults()) }); i >= 0 {
			wanted[same[i]] = true
		} else if ep, err := d.endpoint(); err != nil || !places[ep.Place()] {
			fresh = append(fresh, d)
		}
	}
	for _, same := range running {
		for _, t := range same {
			if t.resolved && !wanted[t] {
				gone = append(gone, t)
			}
		}
	}
	return fresh, gone
}

// add adds destinations that the resolver has returned.
func (r *routing) add(dests []Destination) {
	s := r.src
	for _, d := range dests {
		f, err := newForwarder(s, d)
		if err == nil {
			f.to.Load().resolved = true
			err = s.forward(f)
		}
		if err != nil {
			s.srv.notices.write(slog.LevelWarn, "destination skipped", hostcode.CauseOf(err), "source", s.req.logName(), "destination", d, "err", err)
		}
	}
}

// refreshAfter schedules the next refresh, if there is one.
func (r *routing) refreshAfter(ttl time.Duration) {
	s := r.src
	s.mu.Lock()
	defer s.mu.Unlock()
	stopTimer(&r.stop)
	d := ttl
	if every := r.current.vhost(s.req.Vhost).RefreshInterval; every > 0 && (d <= 0 || every < d) {
		d = every
	}
	if d <= 0 || s.ending {
		return
	}
	d = max(d, minRefresh) + rand.N(max(d/10, 1))
	r.stop = later(d, func() { s.background(r.refreshSelf) })
}

// refreshSelf is a refresh by the Server.
func (r *routing) refreshSelf() {
	s := r.src
	err := r.refresh(context.WithoutCancel(s.publishing)) // Refresh ends it with a cause
	if errors.Is(err, ErrStreamEnded) {
		return
	}
	log := s.srv.log
	switch failed := r.failing.Swap(err != nil); {
	case err == nil && !failed:
	case err == nil:
		if lasted, notLogged, ok := s.srv.refreshes.Over(); ok {
			log.Info("refresh works again", hostcode.WithLeftOut(notLogged, "source", s.req.logName(), "after", lasted.Round(time.Millisecond))...)
		}
	case isLogged(err):
		log.Debug("refresh", "err", err)
	default:
		if notLogged, ok := s.srv.refreshes.Note(refreshCause(err)); ok {
			log.Warn("refresh", hostcode.WithLeftOut(notLogged, "err", err)...)
		}
	}
}

// answered notes how a resolver has answered.
func (r *routing) answered(ctx context.Context, err error) {
	s := r.src
	failed := err != nil && ctx.Err() == nil && !errors.Is(err, ErrRefused)
	switch {
	case failed && !s.srv.resolverFails.Swap(true):
		s.emit(s.srv.events.caused(Event{Kind: EventResolverFailing}, s.req.hide(err)))
	case err == nil && s.srv.resolverFails.Swap(false):
		s.emit(Event{Kind: EventResolverWell})
	}
}

// adopt applies the Server's current Config.
func (r *routing) adopt() {
	s := r.src
	s.mu.Lock()
	cfg := s.srv.cfg.Load() // under the lock: the last caller to get it sees the newest
	if r.current == cfg {
		s.mu.Unlock()
		return
	}
	next := cfg.vhost(s.req.Vhost).Resolver
	another := !sameResolver(next, r.resolver)
	if another {
		r.resolver = next
		r.untried.Store(true)
	}
	name := s.req.Vhost
	refresh := another || cfg.vhost(name).RefreshInterval != r.current.vhost(name).RefreshInterval
	r.current = cfg
	s.mu.Unlock()
	if refresh {
		s.background(r.refreshSelf)
	}
}

func sameResolver(a, b DestinationResolver) bool {
	if a, ok := a.(static); ok {
		b, ok := b.(static)
		return ok && a.equal(b)
	}
	return reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && a == b
}
