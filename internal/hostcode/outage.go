package hostcode

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// ErrBusy says that a host's backend was not asked, since too many ask already.
var ErrBusy = errors.New("forward: busy")

const (
	// OutageEvery is how often the log is told that something still fails.
	OutageEvery = 10 * time.Minute
	// OutageAgain is how long after the last line of a cause the next outage is told.
	OutageAgain = time.Minute
)

// maxCauses is how many causes of an outage are told apart.
const maxCauses = 8

// Outage decides which failures of a part of the host that may fail often are logged: the
// first of a cause immediately, later ones every OutageEvery, or after a recovery every
// OutageAgain, with the number left out, and the recovery once. The zero value has not
// failed.
type Outage struct {
	mu     sync.Mutex
	since  time.Time // zero: it works, as far as known
	causes map[string]*failures
}

// failures are those of one cause.
type failures struct {
	told      time.Time // the last line
	next      time.Time // that one is logged
	notLogged int
}

// Note records a failure. ok says that it must be logged, with the number of failures of
// its cause that were not.
func (o *Outage) Note(cause string) (notLogged int, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	f := o.causes[cause]
	if f == nil && len(o.causes) >= maxCauses {
		cause = "other"
		f = o.causes[cause]
	}
	if f == nil {
		if o.causes == nil {
			o.causes = make(map[string]*failures)
		}
		f = &failures{}
		o.causes[cause] = f
	}
	if now.Before(f.next) {
		f.notLogged++
		return 0, false
	}
	if o.since.IsZero() {
		o.since = now
	}
	notLogged = f.notLogged
	f.told, f.next, f.notLogged = now, now.Add(OutageEvery), 0
	return notLogged, true
}

// Over notes that it works. ok says that this is to be logged: a failure has
// been since the last time.
func (o *Outage) Over() (lasted time.Duration, notLogged int, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.since.IsZero() {
		return 0, 0, false
	}
	now := time.Now()
	for cause, f := range o.causes {
		notLogged += f.notLogged
		f.next = f.told.Add(OutageAgain)
		if f.notLogged = 0; !now.Before(f.next) {
			delete(o.causes, cause)
		}
	}
	lasted = now.Sub(o.since)
	o.since = time.Time{}
	return lasted, notLogged, true
}

// WithLeftOut adds to args how many lines were left out, if any.
func WithLeftOut(n int, args ...any) []any {
	if n > 0 {
		args = append(args, "not_logged", n)
	}
	return args
}

// CauseOf returns a text that is equal for failures which differ only in addresses and
// times.
func CauseOf(err error) string {
	var op *net.OpError
	var dns *net.DNSError
	var no syscall.Errno
	var certificate x509.CertificateInvalidError
	switch {
	case errors.Is(err, ErrBusy):
		return "busy"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return "no answer"
	case errors.As(err, &dns):
		return "name"
	case errors.As(err, &no):
		return no.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed"
	case errors.As(err, &certificate): // the text has the time
		return fmt.Sprint("certificate, reason ", certificate.Reason)
	case errors.As(err, &op):
		return op.Op
	}
	return err.Error()
}
