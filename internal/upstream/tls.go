package upstream

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"fmt"

	"github.com/rtmp-forward/forward/internal/endpoint"
)

// tlsConfig returns the TLS configuration for a connection to at.
func (t *Target) tlsConfig(at endpoint.Endpoint) *tls.Config {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.TLS != nil {
		cfg = t.TLS.Clone()
	}
	if cfg.ServerName == "" {
		cfg.ServerName = at.ServerName
	}
	// Use full records from the start: the first batch is the largest, and all
	// batches are gathered.
	cfg.DynamicRecordSizingDisabled = true
	// Sessions are not shared with other destinations, which may trust other
	// certificates.
	if cfg.ClientSessionCache == nil {
		t.tlsOnce.Do(func() { t.sessions = tls.NewLRUClientSessionCache(2) })
		cfg.ClientSessionCache = t.sessions
	}
	if cfg.InsecureSkipVerify && at.Pin == nil && !t.warnedTLS.Swap(true) {
		t.Log.Warn("destination is not verified: TLSConfig has InsecureSkipVerify")
	}
	if pin := at.Pin; pin != nil {
		cfg.InsecureSkipVerify = true // the key is verified instead
		cfg.VerifyConnection = func(cs tls.ConnectionState) error {
			sum := sha256.Sum256(cs.PeerCertificates[0].RawSubjectPublicKeyInfo)
			if subtle.ConstantTimeCompare(sum[:], pin) != 1 {
				return fmt.Errorf("%w: the SHA-256 of its key is %x", ErrPin, sum)
			}
			return nil
		}
	}
	return cfg
}
