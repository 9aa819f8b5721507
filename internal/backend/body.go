package backend

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/rtmp-forward/forward"
)

// Client and Stream are what most bodies begin with.
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

// NewStream is the beginning of a body about a stream.
func NewStream(action, serviceID string, r *forward.Request) Stream {
	return Stream{
		Client{action, r.ServerID, serviceID, r.ClientID, r.IP(), r.Vhost, r.App},
		r.TcURL, r.Stream, r.Param,
	}
}

// ParseReply reads {"code":0,…}. Its errors name the field and do not quote
// it; another code is ErrRefused. Unknown fields are of no interest.
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

// Refused is the error of a code that is not 0.
func Refused(code int64) error {
	return fmt.Errorf("%w by the backend, code %d", forward.ErrRefused, code)
}
