package resolve

import (
	"container/list"
	"context"
	"fmt"
	"net"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/hostcode"
	"github.com/rtmp-forward/forward/internal/rtmp"
)

// maxAnswers is how many answers a cache keeps: those used last.
const maxAnswers = 4096

// Cached asks r once for equal requests within ttl, or while r has not answered.
// Requests are equal if vhost, app, stream, param, tcUrl, pageUrl, the publisher's
// address without its port, and the address that it has connected to are equal: an
// answer is never given to a publisher with another token. An answer with a TTL of its
// own (see forward.TTLResolver) is kept for that time. With a ttl of 0, answers without
// a TTL of their own are shared only by the requests that wait for them. Errors are
// returned to the waiting requests and are not kept.
//
// The 4096 answers used last are kept. r is asked with the context of the first
// request; if that context ends, one of the other waiting requests asks again. A panic
// of r is raised in the first request's goroutine.
func Cached(r forward.DestinationResolver, ttl time.Duration) forward.DestinationResolver {
	c := &cache{resolver: r, ttl: ttl}
	return ttlFunc(c.resolve)
}

type cache struct {
	resolver forward.DestinationResolver
	ttl      time.Duration
	flights  singleflight.Group // of *flight

	mu      sync.Mutex
	answers answers[question]
}

// question holds the parts of a request on which an answer may depend.
type question struct {
	vhost, app, stream, param, tcURL, pageURL, ip, local string
}

// ipOf returns the host part of an address, or "" if there is none.
func ipOf(a net.Addr) string {
	return (&forward.Request{RemoteAddr: a}).IP()
}

// flight is the result of asking the resolver.
type flight struct {
	answered bool // false if the request that asked gave up or panicked
	answer   answer
	err      error
	panicked any
}

func (c *cache) resolve(ctx context.Context, req *forward.Request) ([]forward.Destination, time.Duration, error) {
	q := question{rtmp.FoldVhost(req.Vhost), req.App, req.Stream, req.Param, req.TcURL, req.PageURL, req.IP(), ipOf(req.LocalAddr)}
	for {
		if a, ok := c.kept(q); ok {
			return a.copy()
		}
		var own *flight // set if this request has asked
		done := c.flights.DoChan(fmt.Sprintf("%q", q), func() (any, error) {
			own = c.ask(ctx, q, req)
			return own, nil
		})
		select {
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		case r := <-done:
			f := r.Val.(*flight)
			switch {
			case f == own && f.panicked != nil:
				panic(f.panicked)
			case f == own && f.err != nil, f.answered && f.err != nil:
				return nil, 0, f.err
			case f.answered:
				return f.answer.copy()
			}
		}
	}
}

// kept returns an answer that has not expired.
func (c *cache) kept(q question) (answer, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, ok := c.answers.get(q)
	return a, ok && time.Now().Before(a.expires)
}

// ask asks the resolver for all waiting requests. It runs in its own goroutine, in which
// no caller could recover from a panic.
func (c *cache) ask(ctx context.Context, q question, req *forward.Request) (f *flight) {
	if a, ok := c.kept(q); ok { // kept after resolve has checked
		return &flight{answered: true, answer: a}
	}
	f = &flight{}
	defer func() {
		if v := recover(); v != nil {
			f.panicked = fmt.Errorf("%v\n\n%s", v, debug.Stack())
		}
	}()
	var ds []forward.Destination
	var ttl time.Duration
	var err error
	hostcode.Call(func() { ds, ttl, err = forward.ResolveTTL(ctx, c.resolver, req) }) // in this goroutine, too, because the Server waits for it
	f.answered = err == nil || ctx.Err() == nil
	if f.err = err; err != nil {
		return f
	}
	f.answer = answer{destinations: ds, ttl: ttl}
	if ttl == 0 {
		ttl = c.ttl
	}
	f.answer.expires = time.Now().Add(ttl)
	if ttl > 0 {
		c.mu.Lock()
		c.answers.put(q, f.answer)
		c.mu.Unlock()
	}
	return f
}

// answer is the answer of a resolver.
type answer struct {
	destinations []forward.Destination
	ttl          time.Duration // from the resolver; 0 means none
	expires      time.Time
}

// copy returns the answer with a slice that the caller may change, and the rest of its
// TTL.
func (a answer) copy() ([]forward.Destination, time.Duration, error) {
	ttl := a.ttl
	if ttl != 0 {
		ttl = max(time.Until(a.expires), time.Millisecond)
	}
	return slices.Clone(a.destinations), ttl, nil
}

// answers keeps the maxAnswers answers used last. The zero value is empty.
type answers[K comparable] struct {
	byKey map[K]*list.Element
	used  list.List // of keyedAnswer[K], latest first
}

type keyedAnswer[K comparable] struct {
	key K
	answer
}

func (s *answers[K]) get(key K) (answer, bool) {
	e := s.byKey[key]
	if e == nil {
		return answer{}, false
	}
	s.used.MoveToFront(e)
	return e.Value.(keyedAnswer[K]).answer, true
}

func (s *answers[K]) put(key K, a answer) {
	if e := s.byKey[key]; e != nil {
		e.Value = keyedAnswer[K]{key, a}
		s.used.MoveToFront(e)
		return
	}
	if s.byKey == nil {
		s.byKey = make(map[K]*list.Element)
	}
	s.byKey[key] = s.used.PushFront(keyedAnswer[K]{key, a})
	if s.used.Len() > maxAnswers {
		oldest := s.used.Remove(s.used.Back()).(keyedAnswer[K])
		delete(s.byKey, oldest.key)
	}
}
