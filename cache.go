package forward

import (
	"container/list"
	"context"
	"slices"
	"sync"
	"time"
)

// maxAnswers is how many answers a cache keeps, the latest used ones.
const maxAnswers = 4096

// Cached asks r once where the same is asked again within ttl, or while r is
// still thinking. Questions are the same if vhost, app, stream, param, tcUrl,
// pageUrl, the publisher's address without port and the one it has connected to
// are: an answer is never given to who brings another token. An answer that says itself how long it holds (see
// TTLResolver) is kept for that long; a ttl of 0 keeps others only until all
// who asked meanwhile have it. Errors go to those who waited and are not kept.
//
// The 4096 answers used last are kept. r is asked in the context of the first
// who asks; should that end, the next of those who wait asks again.
func Cached(r DestinationResolver, ttl time.Duration) DestinationResolver {
	c := &cache{resolver: r, ttl: ttl, flights: make(map[question]*flight)}
	return ttlFunc(c.resolve)
}

type cache struct {
	resolver DestinationResolver
	ttl      time.Duration

	mu      sync.Mutex
	answers answers[question]
	flights map[question]*flight
}

// question is what an answer may depend on.
type question struct {
	vhost, app, stream, param, tcURL, pageURL, ip, local string
}

// flight is a question that is being asked. Its result may be read once done
// is closed.
type flight struct {
	done     chan struct{}
	answered bool // else whoever asked gave up or panicked
	answer   answer
	err      error
}

func (c *cache) resolve(ctx context.Context, req *PublishRequest) ([]Destination, time.Duration, error) {
	q := question{foldVhost(req.Vhost), req.App, req.Stream, req.Param, req.TcURL, req.PageURL, req.IP(), addrIP(req.LocalAddr)}
	for {
		c.mu.Lock()
		if a, ok := c.answers.get(q); ok && time.Now().Before(a.expires) {
			c.mu.Unlock()
			return a.copy()
		}
		f := c.flights[q]
		if f == nil {
			f = &flight{done: make(chan struct{})}
			c.flights[q] = f
			c.mu.Unlock()
			return c.ask(ctx, q, f, req)
		}
		c.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		case <-f.done:
			if f.answered && f.err != nil {
				return nil, 0, f.err
			} else if f.answered {
				return f.answer.copy()
			}
		}
	}
}

// ask asks for all who wait for f.
func (c *cache) ask(ctx context.Context, q question, f *flight, req *PublishRequest) ([]Destination, time.Duration, error) {
	defer func() {
		c.mu.Lock()
		delete(c.flights, q)
		if f.answered && f.err == nil && time.Now().Before(f.answer.expires) {
			c.answers.put(q, f.answer)
		}
		c.mu.Unlock()
		close(f.done)
	}()
	ds, ttl, err := resolveTTL(ctx, c.resolver, req)
	f.answered = err == nil || ctx.Err() == nil
	if f.err = err; err != nil {
		return nil, 0, err
	}
	f.answer = answer{destinations: ds, ttl: ttl}
	if ttl == 0 {
		ttl = c.ttl
	}
	f.answer.expires = time.Now().Add(ttl)
	return f.answer.copy()
}

// answer is what a resolver said.
type answer struct {
	destinations []Destination
	ttl          time.Duration // as the resolver said, 0 if it did not
	expires      time.Time
}

// copy gives the answer to a caller, who may change the slice. A ttl is
// counted down.
func (a answer) copy() ([]Destination, time.Duration, error) {
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
