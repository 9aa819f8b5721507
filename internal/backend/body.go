package backend

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/rtmp-forward/forward"
)

// Client and Stream are the fields with which most bodies begin.
type (
	Client struct {
		Action    string `json:"action"`
		ServerID  string `json:"server_id"`
		ServiceID string `json:"service_id"`
		ClientID  string `json:"client_id"`
		IP        string `json:"ip"`
		Vhost     string `json:"vhost"`
		App       string `json:"app"`
	}
	Stream struct {
		Client
		TcURL  string `json:"tcUrl"`
		Stream string `json:"stream"`
		Param  string `json:"param"`
	}
)

// NewStream returns the first fields of a body about a stream.
func NewStream(action, serviceID string, r *forward.Request) Stream {
	return Stream{
		Client{action, r.ServerID, serviceID, r.ClientID, r.IP(), r.Vhost, r.App},
		r.TcURL, r.Stream, r.Param,
	}
}

// ParseReply reads a reply of the form {"code":0,…} and returns its fields. If the code is
// not 0, the error is that of Refused. Other errors name the field and do not quote it.
func ParseReply(reply []byte) (map[string]json.RawMessage, error) {
	if len(reply) == 0 {
		return nil, errors.New("empty reply")
	}
	var top map[string]json.RawMessage // exact names, unlike struct fields
	if bytes.HasPrefix(reply, []byte("\xff\xfe")) || bytes.HasPrefix(reply, []byte("\xfe\xff")) {
		return nil, errors.New("reply is UTF-16: expected UTF-8")
	}
	if !json.Valid(reply) {
		return nil, errors.New("reply is not JSON")
	}
	if json.Unmarshal(reply, &top) != nil || top == nil {
		return nil, errors.New("reply is not an object")
	}
	var code *int64
	if json.Unmarshal(top["code"], &code) != nil || code == nil {
		return nil, errors.New("code: expected an integer")
	}
	if *code != 0 {
		return nil, Refused(*code)
	}
	return top, nil
}

// Refused returns the error for a code other than 0. It wraps forward.ErrRefused.
func Refused(code int64) error {
	return fmt.Errorf("%w by the backend, code %d", forward.ErrRefused, code)
}
