package forward

import (
	"context"
	"fmt"
	"time"
)

// FailurePolicy says what becomes of a stream when its HTTPResolver cannot get
// an answer: FailClosed, FailOpen, LastGood or Fallback. A stream that the
// backend refuses is refused under each.
type FailurePolicy interface {
	onFailure(ctx context.Context, h *HTTPResolver, req *PublishRequest, err error) ([]Destination, time.Duration, error)
}

type failurePolicy int

const (
	// FailClosed refuses the publisher. It is the default: an encoder that
	// is refused tries again and its user is told, whereas a stream that
	// goes nowhere may not be noticed.
	FailClosed failurePolicy = iota
	// FailOpen accepts the publisher and forwards nothing.
	FailOpen
	// LastGood takes what the backend last answered for a stream of the
	// same name, whoever published it, and is FailClosed where there is
	// nothing. The answers of the 4096 streams asked for last are kept in
	// memory.
	LastGood
)

func (p failurePolicy) onFailure(_ context.Context, h *HTTPResolver, req *PublishRequest, err error) ([]Destination, time.Duration, error) {
	switch p {
	case FailOpen:
		h.logger().Warn("backend failed, not forwarding", "source", req.logName(), "err", err)
		return nil, 0, nil
	case LastGood:
		h.mu.Lock()
		last, ok := h.lastGood.get(req.Name())
		h.mu.Unlock()
		if !ok {
			return nil, 0, fmt.Errorf("%w (and no earlier answer)", err)
		}
		h.logger().Warn("backend failed, forwarding as before", "source", req.logName(), "err", err)
		// Its time is over, but the backend is to be asked again.
		last.expires = time.Now().Add(last.ttl)
		return last.copy()
	}
	return nil, 0, err
}

// Fallback asks r instead.
func Fallback(r DestinationResolver) FailurePolicy { return fallback{r} }

type fallback struct{ resolver DestinationResolver }

func (f fallback) onFailure(ctx context.Context, h *HTTPResolver, req *PublishRequest, err error) ([]Destination, time.Duration, error) {
	h.logger().Warn("backend failed, asking elsewhere", "source", req.logName(), "err", err)
	ds, ttl, ferr := resolveTTL(ctx, f.resolver, req)
	if ferr != nil {
		return nil, 0, fmt.Errorf("%w; instead of %w", ferr, err)
	}
	return ds, ttl, nil
}
