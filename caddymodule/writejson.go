package caddymodule

import (
	"bytes"
	"encoding/json"
	"net/http"
	"sync"
)

// answerEncoder makes an answer.
type answerEncoder struct {
	body bytes.Buffer
	json *json.Encoder // into body
}

// maxKeptAnswer bounds the buffers that wait for the next answer.
const maxKeptAnswer = 16 << 10

var answerEncoders = sync.Pool{New: func() any {
	e := new(answerEncoder)
	e.json = json.NewEncoder(&e.body)
	e.json.SetEscapeHTML(false) // no page; a Message-ID reads better as it is
	return e
}}

func writeJSON(w http.ResponseWriter, mediaType string, status int, v any) {
	e := answerEncoders.Get().(*answerEncoder)
	e.body.Reset()
	if err := e.json.Encode(v); err != nil {
		status = http.StatusInternalServerError
		e.body.Reset()
		e.body.WriteString(`{"statusCode":500,"name":"internal_server_error","message":"The answer could not be written."}`)
	}
	writeBody(w, mediaType, status, e.body.Bytes())
	if e.body.Cap() <= maxKeptAnswer {
		answerEncoders.Put(e)
	}
}

func writeBody(w http.ResponseWriter, mediaType string, status int, body []byte) {
	h, values := w.Header(), [...]string{mediaType, "no-store", "nosniff"}
	h["Content-Type"] = values[0:1:1]
	h["Cache-Control"] = values[1:2:2]
	h["X-Content-Type-Options"] = values[2:3:3]
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
