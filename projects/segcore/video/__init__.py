"""Reading and writing of videos, frame by frame, by PyAV (FFmpeg)."""

from segcore.video.camera import Camera, is_camera_name
from segcore.video.reader import TimedFrame, VideoReader, is_video_name
from segcore.video.writer import VideoWriter, join_videos

__all__ = [
    "Camera",
    "TimedFrame",
    "VideoReader",
    "VideoWriter",
    "is_camera_name",
    "is_video_name",
    "join_videos",
]
