package endpoint

import (
	"errors"
	"net/url"
	"strings"
)

// QueryValues returns the decoded values of one parameter of a query, which may begin with
// "?". A "+" stands for itself, as in stream keys.
func QueryValues(query, name string) (values []string, err error) {
	for pair := range strings.SplitSeq(strings.TrimPrefix(query, "?"), "&") {
		k, v, _ := strings.Cut(pair, "=")
		if k, err = url.PathUnescape(k); err != nil || k != name {
			continue
		}
		if v, err = url.PathUnescape(v); err != nil {
			// err is left out because it quotes the value.
			return nil, errors.New("bad percent-encoding in parameter " + name)
		}
		values = append(values, v)
	}
	return values, nil
}
