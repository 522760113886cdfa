package tokenstest

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
)

// Reply is an odd answer. Proper acts on the request and returns the answer as
// it should be.
type Reply func(r *http.Request, form url.Values, proper func() answer) (answer, error)

// Status answers with a status, a body and header fields, given as names and
// values in turn, and does nothing.
func Status(status int, body string, header ...string) Reply {
	return func(*http.Request, url.Values, func() answer) (answer, error) {
		h := http.Header{}
		for i := 0; i+1 < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		return answer{status, h, []byte(body)}, nil
	}
}

// Fail answers with an OAuth error.
func Fail(status int, code, description string) Reply {
	return func(*http.Request, url.Values, func() answer) (answer, error) {
		return failure(status, code, description), nil
	}
}

// Proper answers as it should be. It stands for a request that another reply
// must not hit.
func Proper() Reply {
	return func(_ *http.Request, _ url.Values, proper func() answer) (answer, error) { return proper(), nil }
}

// Lose acts on the request and loses the answer.
func Lose() Reply {
	return func(_ *http.Request, _ url.Values, proper func() answer) (answer, error) {
		proper()
		return answer{}, errors.New("connection reset by peer")
	}
}

// Hang never answers, nor acts.
func Hang() Reply {
	return func(r *http.Request, _ url.Values, _ func() answer) (answer, error) {
		<-r.Context().Done()
		return answer{}, r.Context().Err()
	}
}

// Wait answers as it should be once the channel is closed.
func Wait(c <-chan struct{}) Reply {
	return func(_ *http.Request, _ url.Values, proper func() answer) (answer, error) {
		<-c
		return proper(), nil
	}
}

// Set acts on the request and changes members of the answer; a nil value
// removes one.
func Set(members map[string]any) Reply {
	return func(_ *http.Request, _ url.Values, proper func() answer) (answer, error) {
		a := proper()
		var m map[string]any
		if err := json.Unmarshal(a.body, &m); err != nil {
			return answer{}, err
		}
		for k, v := range members {
			m[k] = v
			if v == nil {
				delete(m, k)
			}
		}
		return jsonAnswer(a.status, m), nil
	}
}

// Echo refuses the request and sends all of it back, header included.
func Echo() Reply {
	return func(r *http.Request, form url.Values, _ func() answer) (answer, error) {
		said := []string{"bad request:", r.Header.Get("Authorization"), form.Encode()}
		for _, v := range form {
			said = append(said, v...)
		}
		return failure(http.StatusBadRequest, "invalid_request", strings.Join(said, " ")), nil
	}
}

// Answer answers with what a func makes of the request, and does nothing.
func Answer(say func(Request) (status int, body string)) Reply {
	return func(r *http.Request, form url.Values, _ func() answer) (answer, error) {
		status, body := say(Request{r.URL.Path, form, r.Header})
		return answer{status: status, body: []byte(body)}, nil
	}
}
