package forward

import (
	"errors"
	"os"

	"github.com/rtmp-forward/forward/internal/rtmp"
)

// form is in which form the handshake is made with a server, plain or with
// digests. Until it has succeeded in one of them, which then stays, the forms
// take turns: after a handshake that has failed comes the other one. It comes
// in the same attempt, once, where the server has broken off; one that says
// nothing has used up the attempt's time.
//
// A Forwarder makes one connection after the other, so that nothing guards it.
type form struct {
	digest bool // the next handshake's
	known  bool // has succeeded
}

// formAt is the form for a place. Only that of Destination.URL is remembered.
func (f *Forwarder) formAt(at endpoint) *form {
	if at.host == f.ep.host && at.port == f.ep.port {
		return &f.form
	}
	return &form{digest: f.dst.DigestHandshake}
}

// turn has the other form come next where a handshake has failed, and reports
// whether at once: where the server has broken off, and not because it speaks
// another protocol.
func (fm *form) turn(err *DestinationError) (atOnce bool) {
	if err.Op != "handshake" {
		return false
	}
	fm.digest = !fm.digest
	var version rtmp.VersionError
	other := errors.As(err.Err, &version) && version.OtherProtocol()
	return !other && !errors.Is(err.Err, os.ErrDeadlineExceeded)
}
