package caddymodule

import (
	"compress/flate"
	"compress/gzip"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// The media types that calls take.
const (
	typeJSON    = "application/json"
	typeForm    = "multipart/form-data"
	typeMessage = "message/rfc822"
)

var (
	emailTypes = []string{typeJSON, typeForm, typeMessage}
	batchTypes = []string{typeJSON, "application/x-ndjson", "application/jsonl"}
	lineTypes  = batchTypes[1:]
)

// incoming is a request whose body is being read.
type incoming struct {
	w    http.ResponseWriter
	r    *http.Request
	room *share
	// body is unpacked, and ends with an error where it is too large.
	body  io.Reader
	media string
	// boundary is that of a form.
	boundary string
	// outbox is set where there is one.
	outbox bool
}

// receive checks the header of a request before its body is read.
func (h *Handler) receive(w http.ResponseWriter, r *http.Request, types []string) (*incoming, error) {
	in := &incoming{w: w, r: r, outbox: h.app.mailer.Outbox != nil}
	in.media, in.boundary = mediaType(r.Header)
	if !slices.Contains(types, in.media) {
		return nil, refuse(http.StatusUnsupportedMediaType, nameValidation, "media_type",
			"The body must be JSON, with the header Content-Type: application/json, or of the type "+strings.Join(types[1:], " or ")+".")
	}
	encoding := strings.ToLower(r.Header.Get("Content-Encoding"))
	if encoding != "" && encoding != "identity" && encoding != "gzip" {
		return nil, refuse(http.StatusUnsupportedMediaType, nameValidation, "content_encoding",
			"The body must not be compressed, or by gzip.")
	}
	if _, err := idempotencyKey(r.Header); err != nil {
		return nil, err
	}
	// Not every writer has deadlines; a server's own then hold alone.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	var err error
	if in.room, err = h.app.memory.acquire(r); err != nil {
		h.app.memory.turnAway(w, r)
		return nil, err
	}
	in.body = http.MaxBytesReader(w, r.Body, h.app.memory.largest)
	if encoding == "gzip" {
		in.body = &unpacked{from: in.body, limit: h.app.memory.largest}
	}
	return in, nil
}

// mediaType is that of a request, in lower case and without parameters, empty where it
// is not known; and the parameter boundary.
func mediaType(h http.Header) (media, boundary string) {
	text := h.Get("Content-Type")
	if text == typeJSON { // nearly always
		return text, ""
	}
	media, params, err := mime.ParseMediaType(text)
	if err != nil {
		return "", ""
	}
	return media, params["boundary"]
}

// refused ends the reading of a body that is not wanted any more.
func (in *incoming) refused(err error) error {
	in.close()
	in.room.of.discard(in.r)
	return err
}

// close gives back what the body takes. It may be called more than once.
func (in *incoming) close() { in.room.release() }

// unpacked is a body that comes packed by gzip. However little there is of it, it
// yields no more than it may have.
type unpacked struct {
	from  io.Reader
	zip   *gzip.Reader
	n     int64
	limit int64
}

func (u *unpacked) Read(p []byte) (int, error) {
	if u.zip == nil {
		var err error
		if u.zip, err = gzip.NewReader(u.from); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF // not even a header
			}
			return 0, err
		}
	}
	n, err := u.zip.Read(p)
	if u.n += int64(n); u.n > u.limit {
		return 0, &http.MaxBytesError{Limit: u.limit}
	}
	return n, err
}

// unreadable is a body that could not be read.
func unreadable(err error) error {
	var tooLarge *http.MaxBytesError
	var fromHandler caddyhttp.HandlerError
	var corrupt flate.CorruptInputError
	switch {
	case errors.As(err, &tooLarge):
		return errTooLarge(tooLarge.Limit)
	case errors.As(err, &fromHandler) && fromHandler.StatusCode == http.StatusRequestEntityTooLarge:
		return errTooLarge(0)
	case errors.Is(err, gzip.ErrHeader) || errors.Is(err, gzip.ErrChecksum) || errors.As(err, &corrupt):
		return refuse(http.StatusBadRequest, nameValidation, "bad_gzip", "The body is not what gzip makes, as Content-Encoding says it is.")
	}
	return refuse(http.StatusBadRequest, nameValidation, "body",
		"The request ended before its body was complete, or took too long.")
}

// errTooLarge is a body over a limit; zero where that is another handler's.
func errTooLarge(limit int64) error {
	what := "than this server takes"
	if limit > 0 {
		what = "than the " + octets(limit) + " that it may have with its attachments, unpacked"
	}
	return refuse(http.StatusRequestEntityTooLarge, nameValidation, "too_large", "The request is larger "+what+".")
}
